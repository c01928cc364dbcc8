"""How torch computes in a worker: the same bits wherever it runs on a CPU, full float32, and the fastest products for it."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from harness.kernels import kernels_wanted, why_not
from harness.rules import UserError
from harness.workers import WORKER

_BACKENDS: Any = torch.backends  # torch's own types lack what is set below
_DETERMINISTIC: Any = torch.utils.deterministic

FLOAT32_ERROR = 1e-5
"""Of products of a few hundred numbers, relative to the largest: float32 stays far below, bfloat16 and TF32 far above."""


@contextmanager
def computing_on(device: str, kernels: str = "auto") -> Iterator[None]:
    """Torch's settings for a while.

    On a CPU one thread and deterministic algorithms, so that every executor gives the same bits; what was set before is put back
    afterwards. On a GPU full float32 and the device of the worker's number, from then on.

    Args:
        device: As in ``Placement``.
        kernels: As in ``Placement``.

    Raises:
        UserError: if the compiled kernels are to be used and cannot be had.
    """
    if device != "cpu":
        torch.cuda.set_device(int(os.environ.get(WORKER, "0")) % torch.cuda.device_count())  # "cuda" is this one from now on
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        yield
        return
    require(kernels)
    products = "bf16" if onednn_keeps_float32() else _products_now()
    with _one_thread(), _deterministic(), _products(products), kernels_wanted(kernels != "torch"):
        yield


def require(kernels: str) -> None:
    """Sees that this process has the kernels that it is to compute with.

    Args:
        kernels: As in ``Placement``.

    Raises:
        UserError: if they are to be compiled and cannot be had.
    """
    if kernels == "compiled" and (reason := why_not()):
        raise UserError(f"no compiled kernels on {platform.node()} ({reason}): have a C++ compiler there, or use --kernels torch")


@lru_cache(maxsize=1)
def onednn_keeps_float32() -> bool:
    """Whether oneDNN, when it may round the operands of float32 products to bfloat16, does not do so on this processor.

    Torch gives float32 products to MKL, which runs AVX2 code on processors that are not Intel's, and to oneDNN, which has AVX-512
    code for all, only with that permission. OneDNN makes use of it where the processor has matrix units for bfloat16; on all
    others the products are float32 all the same, and up to twice as fast as MKL's.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(3, 64, 64, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    with _products("bf16"):
        products = torch.bmm(left, right), torch.stack([torch.mm(*pair) for pair in zip(left, right, strict=True)])
    return all(float((found - exact).abs().max() / exact.abs().max()) < FLOAT32_ERROR for found in products)


def _products_now() -> str:
    return str(_BACKENDS.mkldnn.matmul.fp32_precision)


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """What oneDNN may do with the operands of float32 products."""
    before = _products_now()
    _BACKENDS.mkldnn.matmul.fp32_precision = precision
    try:
        yield
    finally:
        _BACKENDS.mkldnn.matmul.fp32_precision = before


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Without filling new memory, which is for finding operations that read it before they write it.

    Set through the debug mode, which is the same switch: ``torch.use_deterministic_algorithms`` tells torch's compiler as
    well, and for that loads it, which takes a worker a second or two and 150 MB.
    """
    before, filled = torch.get_deterministic_debug_mode(), _DETERMINISTIC.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    _DETERMINISTIC.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        _DETERMINISTIC.fill_uninitialized_memory = filled


def peak_memory_mb(device: str) -> float:
    """The most memory that this worker has had so far: of the GPU where it computes on one, else the process's own, in MB.

    Of a CPU's worker all that its process shares with others is in it as well; NaN where the system does not say.
    """
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource  # not on every system
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
