"""Tests of the harness, one file a module."""
