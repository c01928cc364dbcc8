"""Do points between two codes decode to images that look like data? Pure functions on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MIDPOINTS = (0.25, 0.5, 0.75)
STRIP_STEPS = 9
STRIP_PAIRS = 6
DISTANCE_PAIRS = 64
PATH_PAIRS = 256
"""Of test images, between which whole paths are compared; fewer where there are not so many images."""

PARALLEL = 1e-4
"""Two codes whose angle's sine is smaller lie on one line through the centre: no arc between them is the shortest."""

Decoder = Callable[[Tensor], Tensor]


def interpolate(codes: Tensor, pairs: Sequence[tuple[int, int]], weights: Sequence[float]) -> Tensor:
    """Mixes codes: a E(x1) + (1 - a) E(x2).

    Args:
        codes: (N, d).
        pairs: Indices into the codes, (x1, x2).
        weights: The values of a.

    Returns:
        (pairs, weights, d).
    """
    first = codes[[pair[0] for pair in pairs]].unsqueeze(1)
    second = codes[[pair[1] for pair in pairs]].unsqueeze(1)
    a = torch.tensor(weights, dtype=codes.dtype, device=codes.device).view(1, -1, 1)
    return a * first + (1 - a) * second


def interpolate_on_arcs(codes: Tensor, pairs: Sequence[tuple[int, int]], weights: Sequence[float], centre: Tensor) -> Tensor:
    """Mixes codes along arcs about a centre, so that what is between is not nearer to the centre than both.

    The directions go along a great circle (Shoemake 1985), which is for vectors of one length: of two lengths his formula would
    go far outside both where they are nearly opposite. The distance from the centre is mixed on a line.

    Args:
        codes: (N, d).
        pairs: Indices into the codes, (x1, x2).
        weights: The values of a; 1 gives x1, 0 gives x2.
        centre: (d,), such as the mean of the training codes.

    Returns:
        (pairs, weights, d); as ``interpolate`` where two codes lie on one line through the centre, or one of them in it.
    """
    first, second = (codes[[pair[end] for pair in pairs]] - centre for end in (0, 1))
    lengths = [each.norm(dim=1).view(-1, 1, 1) for each in (first, second)]
    one, other = (torch.nn.functional.normalize(each, dim=1).unsqueeze(1) for each in (first, second))
    cosine = (one * other).sum(dim=2, keepdim=True).clamp(-1, 1)
    angle, sine = cosine.acos(), (1 - cosine.square()).sqrt()
    a = torch.tensor(weights, dtype=codes.dtype, device=codes.device).view(1, -1, 1)
    directions = ((a * angle).sin() * one + ((1 - a) * angle).sin() * other) / sine
    arcs = (a * lengths[0] + (1 - a) * lengths[1]) * directions + centre
    is_arc = (sine > PARALLEL) & (lengths[0] > 0) & (lengths[1] > 0)
    return torch.where(is_arc, arcs, interpolate(codes, pairs, weights))


def confidence(images: Tensor, judge: Callable[[Tensor], Tensor]) -> float:
    """How sure a classifier is of images: the mean of its largest probability.

    Args:
        images: (N, C, H, W).
        judge: From images to logits, (N, classes).
    """
    return float(judge(images).softmax(dim=1).amax(dim=1).mean())


def decoded_strips(codes: Tensor, pairs: Sequence[tuple[int, int]], decode: Decoder, steps: int = STRIP_STEPS) -> Tensor:
    """Decodes evenly spaced points from x1 (a = 1) to x2 (a = 0).

    Returns:
        Images, (pairs, steps, C, H, W).
    """
    weights = [1 - step / (steps - 1) for step in range(steps)]
    mixed = interpolate(codes, pairs, weights)
    images = decode(mixed.flatten(0, 1))
    return images.reshape(len(pairs), steps, *images.shape[1:])


def nearest_mse(queries: Tensor, references: Tensor, block: int = 256) -> Tensor:
    """Mean squared error per pixel from each query image to the nearest reference image.

    The nearest is found by a matrix product, its distance is then measured as it is.

    Args:
        queries: (Q, C, H, W).
        references: (N, C, H, W).
        block: Queries compared at a time, which bounds the memory.

    Returns:
        (Q,), float32.
    """
    flat = references.flatten(1)
    lengths = flat.square().sum(dim=1)
    nearest = [(lengths - 2 * part @ flat.T).argmin(dim=1) for part in queries.flatten(1).split(block)]
    return (queries.flatten(1) - flat[torch.cat(nearest)]).square().mean(dim=1)


def manifold_distance(midpoints: Tensor, training: Tensor, data_distance: float) -> float:
    """How far decoded midpoints are from the data, in units of how far data are from the data.

    Args:
        midpoints: Decoded images, (M, C, H, W).
        training: The images among which the nearest is looked for, (N, C, H, W).
        data_distance: Mean ``nearest_mse`` of real test images.

    Returns:
        Mean nearest-training-image squared error of the midpoints over that of the real images; 1 = as close as data. NaN
        where the real images are copies of training images.
    """
    return float(nearest_mse(midpoints, training).mean()) / data_distance if data_distance > 0 else float("nan")
