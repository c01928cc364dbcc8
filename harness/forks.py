"""Loaded by the process that workers are forks of, before all else, and by nobody else."""

from __future__ import annotations

from harness.garbage import end_without_search, search_seldom

search_seldom()
end_without_search()
