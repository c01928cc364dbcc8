"""Which seeds and configurations are compared where trials are missing."""

from __future__ import annotations

import pytest

from harness.complete import complete_part


@pytest.mark.parametrize(
    ("cells", "seeds", "kept"),
    [
        ({}, [], ""),
        ({2: "ab", 0: "ab"}, [0, 2], "ab"),
        ({0: "abc", 1: "abc", 2: "a"}, [0, 1], "abc"),  # a seed that has just begun
        ({0: "abc", 1: "ab", 2: "ab"}, [0, 1, 2], "ab"),  # a configuration that fails from most seeds
        ({0: "abcd", 1: "abc"}, [0, 1], "abc"),
        ({0: "ab", 1: "bc", 2: "ac"}, [], ""),
        ({0: "a", 1: "b"}, [], ""),
    ],
)
def test_what_leaves_more_trials_is_kept(cells: dict[int, str], seeds: list[int], kept: str) -> None:
    """Whole seeds, or configurations that all seeds have; nothing where both are empty."""
    assert complete_part(cells) == (seeds, frozenset(kept))
