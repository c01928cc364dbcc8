"""Torch's settings in a worker."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness import numerics
from tests.support import torch_settings

SHAPES = ((64, 128, 256), (16, 512, 256), (256, 288, 64), (5, 3, 7))


@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
def test_products_are_float32(rows: int, inner: int, columns: int) -> None:
    """Whatever library makes them, products, their transposes and batches of them are as exact as float32 can be."""
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, rows, inner)), random.standard_normal((2, inner, columns))
    left, right = left.astype(np.float32), right.astype(np.float32)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    with numerics.computing_on("cpu"):
        batch = torch.bmm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
        turned = torch.bmm(torch.from_numpy(left), torch.from_numpy(right.swapaxes(1, 2).copy()).transpose(1, 2)).numpy()
        single = torch.nn.functional.linear(torch.from_numpy(left[0]), torch.from_numpy(right[0].T.copy())).numpy()
    for found, expected in ((batch, exact), (turned, exact), (single, exact[0])):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_products_that_round_their_operands_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where oneDNN would round to bfloat16, as with matrix units it does, products stay where they were."""
    plain = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda left, right: plain(left.bfloat16(), right.bfloat16()).float())
    assert not numerics.onednn_keeps_float32.__wrapped__()
    monkeypatch.setattr(numerics, "onednn_keeps_float32", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with numerics.computing_on("cpu"):
        assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_on_a_cpu_torch_has_one_thread_and_is_deterministic() -> None:
    """So that every executor gives the same bits."""
    with numerics.computing_on("cpu"):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()


def test_settings_are_put_back_after_an_error() -> None:
    """Someone else's program may go on with the same torch."""
    before = torch_settings()
    with pytest.raises(ValueError, match="inside"), numerics.computing_on("cpu"):
        raise ValueError("inside")
    assert torch_settings() == before
