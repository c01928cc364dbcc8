"""Loaded by the process that workers are forks of, before all else, and by nobody else."""

from __future__ import annotations

from harness.garbage import search_not_at_end, search_seldom

search_seldom()
search_not_at_end()
