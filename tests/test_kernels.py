"""The compiled kernels: how they come about, when they are used, and that they give what torch gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import compiled, kernels
from harness.compiled import in_use, kernels_wanted, normalize_compiled
from harness.kernels import NoKernelsError
from harness.numerics import computing_on
from tests.stacking import assert_close
from tests.support import ROOT

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")

PROCESSOR = kernels._processor()
"""What this one can do."""

FLAGS = kernels.FLAGS

BROKEN = """#!/bin/sh
[ "$1" = --version ] && exit 0
echo 'kernels.cpp:1: error: no such language' >&2
exit 1
"""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it; what is loaded from it is forgotten afterwards. What is compiled is not made fast."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in kernels.FLAGS))
    kernels.load.cache_clear()
    compiled.why_not.cache_clear()
    yield tmp_path / "cache" / "harness" / "kernels"
    kernels.load.cache_clear()
    compiled.why_not.cache_clear()


@pytest.fixture
def broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes nothing."""
    path = tmp_path / "broken"
    path.write_text(BROKEN)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def test_they_are_compiled_once_for_all_processes(own_cache: Path) -> None:
    """One file, whole, which the next process takes; nothing else is left in the folder."""
    kernels.load()
    (file,) = own_cache.iterdir()
    before = file.stat()
    kernels.load.cache_clear()
    kernels.load()
    assert [*own_cache.iterdir()] == [file]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_several_processes_may_compile_at_once(own_cache: Path) -> None:
    """Each has what it needs afterwards, and there is one file."""
    program = "from harness import compiled; import sys; sys.exit(bool(compiled.why_not()))"
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len([*own_cache.iterdir()]) == 1


def test_another_processor_has_kernels_of_its_own(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that machines share no machine runs what was made for another."""
    kernels.load()
    kernels.load.cache_clear()
    monkeypatch.setattr(kernels, "_processor", lambda: "another")
    kernels.load()
    assert len([*own_cache.iterdir()]) == 2


def test_another_text_is_compiled_anew(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update no stale program is loaded."""
    kernels.load()
    kernels.load.cache_clear()
    changed = tmp_path / "kernels.cpp"
    changed.write_text(kernels.SOURCE.read_text() + '\nextern "C" int newer() { return 7; }\n')
    monkeypatch.setattr(kernels, "SOURCE", changed)
    assert kernels.load().newer() == 7
    assert len([*own_cache.iterdir()]) == 2


def test_without_a_compiler_torch_does_the_work(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NoKernelsError, match="there is no C\\+\\+ compiler"):
        kernels.load()
    assert compiled.described() == "torch (there is no C++ compiler)"
    assert not in_use("cpu", torch.float32)
    assert not own_cache.exists()


@pytest.mark.usefixtures("broken_compiler")
def test_a_compiler_that_cannot_do_it_is_named_with_its_error(own_cache: Path) -> None:
    """Nothing is left in the cache."""
    assert "broken: kernels.cpp:1: error: no such language" in compiled.why_not()
    assert [*own_cache.iterdir()] == []


def test_a_compiler_that_is_not_there_is_named(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by name in a variable."""
    monkeypatch.setenv("CXX", "/nowhere/c++ -O1")
    assert compiled.why_not().startswith("/nowhere/c++: ")
    assert not own_cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """Torch does the work then."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "Not a directory" in compiled.why_not()
    assert not own_cache.exists()


def test_kernels_that_give_wrong_results_are_not_used(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the compiler made of them: here of one sign that is another."""
    text = kernels.SOURCE.read_text()
    assert text.count("sums[p][v] += value *") == 1
    changed = tmp_path / "kernels.cpp"
    changed.write_text(text.replace("sums[p][v] += value *", "sums[p][v] -= value *"))
    monkeypatch.setattr(kernels, "SOURCE", changed)
    assert compiled.described() == "torch (the compiled kernels give wrong results)"
    assert len([*own_cache.iterdir()]) == 1


def test_they_are_for_float32_on_a_cpu_and_while_they_are_wanted() -> None:
    """Also after an error inside."""
    assert in_use("cpu", torch.float32)
    assert not in_use("cuda", torch.float32)
    assert not in_use("cpu", torch.bfloat16)
    assert not in_use("cpu", torch.float64)
    with pytest.raises(ValueError, match="inside"), kernels_wanted(False):
        raise ValueError("inside" if not in_use("cpu", torch.float32) else "in use")
    with computing_on("cpu", "torch"):
        assert not in_use("cpu", torch.float32)
    with computing_on("cpu"):
        assert in_use("cpu", torch.float32)


def by_torch(maps: Tensor, weight: Tensor, bias: Tensor, rectified: bool, gradient: Tensor) -> list[Tensor]:
    """Torch's batch norm of each member in double precision: result, mean, variance and the gradients of the three."""
    members = len(weight)
    leaves = [each.double().requires_grad_() for each in (maps, weight, bias)]
    parts, means, variances = [], [], []
    for part, own_weight, own_bias in zip(leaves[0].chunk(members), leaves[1], leaves[2], strict=True):
        normal = nn.functional.batch_norm(part, None, None, own_weight, own_bias, training=True)
        parts.append(normal.relu() if rectified else normal)
        rows = part.movedim(1, -1).flatten(0, -2)
        means.append(rows.mean(dim=0))
        variances.append(rows.var(dim=0, correction=0))
    result = torch.cat(parts)
    return [
        each.detach()
        for each in (result, torch.stack(means), torch.stack(variances), *torch.autograd.grad(result, leaves, gradient.double()))
    ]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 5, 4), (2, 16, 7, 7), (40, 5, 9, 9), (6, 33), (300, 2, 1, 1)], ids=str)
def test_a_batch_norm_is_torch_s(shape: tuple[int, ...], rectified: bool) -> None:
    """Of maps and of rows, of more rows than are summed at once, whatever the channels; far from zero as well."""
    random = torch.Generator().manual_seed(len(shape))
    maps = torch.randn(3 * shape[0], *shape[1:], generator=random) * 2 + 30
    weight, bias = (torch.randn(3, shape[1], generator=random) for _ in range(2))
    gradient = torch.randn(maps.shape, generator=random)
    leaves = [each.clone().requires_grad_() for each in (maps, weight, bias)]
    result, mean, variance = normalize_compiled(*leaves, torch.finfo(torch.float32).eps, rectified)
    found = [result, mean, variance, *torch.autograd.grad(result, leaves, gradient)]
    expected = by_torch(maps, weight, bias, rectified, gradient)
    for name, one, other in zip(("result", "mean", "variance", "maps", "weight", "bias"), found, expected, strict=True):
        assert_close(one.detach(), other, name, rounding=1e-4 if name == "maps" else 2e-5)


@pytest.mark.parametrize("rectified", [False, True])
def test_what_is_not_finite_stays_so(rectified: bool) -> None:
    """A ReLU does not hide it, so that a trial that diverges is seen."""
    maps = torch.randn(6, 4, 3, 3)
    maps[0, 0] = torch.nan
    result, _, _ = normalize_compiled(maps, torch.ones(2, 4), torch.zeros(2, 4), 1e-5, rectified)
    assert result[:3, 0].isnan().all()
    assert not result[3:].isnan().any()
    assert not result[:, 1:].isnan().any()


def test_the_sizes_are_in_the_order_of_the_kernels_own() -> None:
    """A field more on either side would shift all after it."""
    names = "members images small_channels large_channels kernel_height kernel_width stride_height stride_width"
    names += " padding_height padding_width large_height large_width small_height small_width"
    declared = kernels.SOURCE.read_text().partition("struct Sizes {")[2].partition("Index taps()")[0]
    found = [word.strip(" ,;") for word in declared.replace("Index", "").split() if word.strip(" ,;")]
    assert found == names.split()
    geometry = compiled.Geometry((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
    assert [*compiled._sizes(-4, -3, -2, -1, geometry)] == [-4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.skipif("avx512f" not in PROCESSOR, reason="the processor has no vectors of 16 numbers")
def test_a_narrower_processor_gives_the_same_bits(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With vectors of 8 numbers in place of 16: sums have one order, so that the machines of a cluster agree."""
    results = []
    for options in ("", " -mno-avx512f"):
        monkeypatch.setattr(kernels, "FLAGS", FLAGS)
        monkeypatch.setenv("CXX", f"{shutil.which('c++')}{options}")
        kernels.load.cache_clear()
        results.append(_everything())
    assert len([*own_cache.iterdir()]) == 2
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.skipif("avx" not in PROCESSOR, reason="the processor has vectors of 4 numbers as it is")
def test_the_narrowest_vectors_are_right_as_well(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 numbers and without fused multiply-add, as on processors of ten years ago: the same up to rounding."""
    wide = _everything()
    monkeypatch.setenv("CXX", f"{shutil.which('c++')} -mno-avx512f -mno-avx -mno-fma")
    kernels.load.cache_clear()
    for one, other in zip(_everything(), wide, strict=True):
        assert_close(one.detach(), other.detach())
    assert len([*own_cache.iterdir()]) == 2


def _everything() -> list[Tensor]:
    """What all kernels give for some sizes."""
    random = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for large, small, channels in (((9, 9), (5, 5), (53, 37)), ((2, 2), (2, 2), (64, 40)), ((6, 6), (3, 3), (20, 1))):
        geometry = compiled.Geometry((3, 3), (2, 2) if large != small else (1, 1), (1, 1), large, small)
        weight = torch.randn(2, *channels, 3, 3, generator=random)
        for transposed in (False, True):
            side, size = (channels[0], small) if transposed else (channels[1], large)
            leaves = [torch.randn(38, side, *size, generator=random).requires_grad_(), weight.clone().requires_grad_()]
            result = compiled.convolve_compiled(leaves[0], leaves[1], None, geometry, transposed)
            found += [result, *torch.autograd.grad(result.square().sum(), leaves)]
    leaves = [torch.randn(*shape, generator=random).requires_grad_() for shape in ((80, 21, 5, 5), (2, 21), (2, 21))]
    result, mean, variance = normalize_compiled(*leaves, 1e-5, True)
    return [*found, result, mean, variance, *torch.autograd.grad(result.square().sum(), leaves)]
