"""Measurements of the harness, each a command."""
