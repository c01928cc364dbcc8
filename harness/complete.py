"""Which seeds and configurations to compare where some trials are missing: one rule for findings and comparisons."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

Cell = TypeVar("Cell")


def complete_part(cells: Mapping[int, Collection[Cell]]) -> tuple[list[int], frozenset[Cell]]:
    """The configurations that any seed has, of the seeds that have them all; or those that all seeds have, of all seeds.

    Of the two it is what keeps more trials, so that a few missing ones take neither a group away nor most of its seeds.

    Args:
        cells: By seed, the configurations that it has.

    Returns:
        Seeds, rising, and configurations, of which no trial is missing; both empty where there are none.
    """
    if not cells:
        return [], frozenset()
    every = frozenset[Cell]().union(*cells.values())
    common = every.intersection(*cells.values())
    whole = [seed for seed, own in cells.items() if len(own) == len(every)]
    seeds, kept = (whole, every) if len(whole) * len(every) >= len(cells) * len(common) else ([*cells], common)
    return (sorted(seeds), kept) if seeds and kept else ([], frozenset())
