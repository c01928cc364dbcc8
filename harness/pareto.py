"""Several objectives at once: which points no other beats, and how much of the space they do. Pure functions on numbers.

All objectives are to be small: whoever wants one to be large turns its sign.
"""

from __future__ import annotations

from collections.abc import Sequence

Point = Sequence[float]


def front(points: Sequence[Point]) -> list[int]:
    """The points that no other dominates, by their places in order; of equal points all.

    One point dominates another where it is nowhere larger and somewhere smaller.
    """
    return [place for place, point in enumerate(points) if not any(_dominates(other, point) for other in points)]


def _dominates(one: Point, other: Point) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume of all that some point dominates, up to a reference (Zitzler and Thiele 1998); the larger the better.

    Sliced along the last objective, exactly; for some hundred points of up to four objectives.

    Args:
        points: The objectives of each trial.
        reference: A point that is worse than all that counts; what is not better than it in every objective adds nothing.
    """
    inside = [tuple(point) for point in points if all(each < worst for each, worst in zip(point, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in inside)
    heights = sorted({point[-1] for point in inside})
    slices = zip(heights, [*heights[1:], reference[-1]], strict=True)
    return sum(
        (upper - lower) * hypervolume([point[:-1] for point in inside if point[-1] <= lower], reference[:-1])
        for lower, upper in slices
    )
