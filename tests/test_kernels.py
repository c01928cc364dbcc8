"""The compiled kernels: how they come about, when they are used, and that they give what torch gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from harness import compiler, kernels
from harness.compiler import NoKernelsError
from harness.kernels import convolve_compiled, in_use, kernels_wanted, normalize_compiled
from harness.lowering import Geometry
from harness.numerics import computing_on
from harness.rules import UserError
from harness.stacks import stack
from tests.stacking import assert_close
from tests.support import ROOT

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    pytest.mark.usefixtures("needs_kernels"),
]

PROCESSOR = compiler._processor()
"""What this one can do."""

FLAGS = compiler.FLAGS

WILLING = """#!/bin/sh
case "$*" in --version | *-fsyntax-only*) exit 0 ;; esac
"""
"""A compiler up to there."""

BROKEN = f"{WILLING}echo 'kernels.cpp:1: error: no such language' >&2; exit 1"


def forget() -> None:
    """What this process has loaded."""
    for each in (compiler.load, compiler._found, kernels.why_not):
        each.cache_clear()


@pytest.fixture
def own_cache(needs_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it; what is loaded from it is forgotten afterwards. What is compiled is not made fast."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in compiler.FLAGS))
    forget()
    yield tmp_path / "cache" / "harness" / "kernels"
    forget()


@pytest.fixture
def broken_compiler(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes nothing."""
    path = tmp_path / "broken"
    path.write_text(BROKEN)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def test_they_are_compiled_once_for_all_processes(own_cache: Path) -> None:
    """One file, whole, which the next process takes; nothing else is left in the folder."""
    compiler.load()
    (file,) = own_cache.iterdir()
    before = file.stat()
    forget()
    compiler.load()
    assert [*own_cache.iterdir()] == [file]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_several_processes_may_compile_at_once(own_cache: Path) -> None:
    """Each has what it needs afterwards, and there is one file."""
    program = "from harness import kernels; import sys; sys.exit(bool(kernels.why_not()))"
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len([*own_cache.iterdir()]) == 1


def test_another_processor_has_kernels_of_its_own(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that machines share no machine runs what was made for another."""
    compiler.load()
    forget()
    monkeypatch.setattr(compiler, "_processor", lambda: "another")
    compiler.load()
    assert len([*own_cache.iterdir()]) == 2


@pytest.fixture
def own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the program to change."""
    folder = shutil.copytree(compiler.FOLDER, tmp_path / "native")
    monkeypatch.setattr(compiler, "FOLDER", folder)
    return folder


@pytest.mark.parametrize("name", [path.name for path in compiler.files()])
def test_another_text_is_compiled_anew(name: str, own_cache: Path, own_sources: Path) -> None:
    """After an update no stale program is loaded, whichever file is another."""
    own = compiler._examined(["c++"])
    before = compiler._key(own)
    (own_sources / name).write_text((own_sources / name).read_text() + "\n")
    assert compiler._key(own) != before
    assert not own_cache.exists()


@pytest.mark.parametrize("content", [b"", b"\x7fELF"], ids=["empty", "cut off"])
def test_a_damaged_file_is_made_again(content: bytes, own_cache: Path) -> None:
    """As one is that was on its way to the disk when the power went."""
    file = own_cache / f"{compiler._key(compiler._examined([str(shutil.which('c++'))]))}.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert kernels.why_not() == ""
    assert [*own_cache.iterdir()] == [file]
    assert file.stat().st_size > 1000


def test_a_compiler_that_hangs_is_given_up(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left of it."""
    slow = tmp_path / "slow"
    slow.write_text(f"{WILLING}exec sleep 60")
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setattr(compiler, "COMPILE_SECONDS", 2)
    assert "timed out after 2 seconds" in kernels.why_not()
    assert [*own_cache.iterdir()] == []


def test_the_next_compiler_is_tried_where_one_cannot_do_it(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old one may come first."""
    (tmp_path / "c++").write_text(BROKEN)
    (tmp_path / "c++").chmod(0o755)
    (tmp_path / "g++").symlink_to(str(shutil.which("c++")))
    monkeypatch.setattr(compiler, "COMPILERS", (str(tmp_path / "c++"), str(tmp_path / "g++")))
    compiler.load()
    assert len([*own_cache.iterdir()]) == 1


def test_without_a_compiler_torch_does_the_work(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NoKernelsError, match="there is no C\\+\\+ compiler"):
        compiler.load()
    assert kernels.why_not() == "there is no C++ compiler"
    assert not in_use("cpu", torch.float32)
    assert not own_cache.exists()


@pytest.mark.usefixtures("broken_compiler")
def test_a_compiler_that_cannot_do_it_is_named_with_its_error(own_cache: Path) -> None:
    """Nothing is left in the cache."""
    assert "broken: kernels.cpp:1: error: no such language" in kernels.why_not()
    assert [*own_cache.iterdir()] == []


def test_a_compiler_that_is_not_there_is_named(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by name in a variable."""
    monkeypatch.setenv("CXX", "/nowhere/c++ -O1")
    assert kernels.why_not().startswith("/nowhere/c++: ")
    assert not own_cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """Torch does the work then."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "Not a directory" in kernels.why_not()
    assert not own_cache.exists()


MISTAKES = {
    "sign of a product": ("convolutions.cpp", "sums[p][v] += value *", "sums[p][v] -= value *"),
    "gradient of weights": ("convolutions.cpp", "sums[u][r][v] += left", "sums[u][r][v] -= left"),
    "minimal filtering": ("convolutions.cpp", "to[side + c] = m0 - m1 - m2;", "to[side + c] = m0 - m1 + m2;"),
    "few channels": ("convolutions.cpp", "sum += given[", "sum -= given["),
    "batch norm": ("batch_norm.cpp", "* scales[v] + shifts[v];", "* scales[v] - shifts[v];"),
    "its gradient": ("batch_norm.cpp", "own * scales[v] - shifts[v]", "own * scales[v] + shifts[v]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.usefixtures("own_cache")
def test_kernels_that_give_wrong_results_are_not_used(mistake: str, own_sources: Path) -> None:
    """Whatever a compiler made of them, in each of their ways: here of a line that is another."""
    name, right, wrong = MISTAKES[mistake]
    text = (own_sources / name).read_text()
    assert text.count(right) == 1
    (own_sources / name).write_text(text.replace(right, wrong))
    assert kernels.why_not() == "the compiled kernels give wrong results"
    assert not in_use("cpu", torch.float32)


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


def test_a_worker_without_them_computes_nothing_by_other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of a sweep are all made in one way; the line says what to do."""
    monkeypatch.setattr("harness.numerics.why_not", lambda: "there is no C++ compiler")
    with pytest.raises(UserError, match=r"there is no C\+\+ compiler.*--kernels torch"), computing_on("cpu", "compiled"):
        pass
    with computing_on("cpu", "torch"):
        assert not in_use("cpu", torch.float32)


@settings(max_examples=60)
@given(
    st.sampled_from([(9, 3, 2), (2, 3, 1), (5, 4, 2), (4, 1, 1), (3, 5, 3)]),
    st.tuples(st.integers(1, 140), st.one_of(st.integers(1, 5), st.integers(1, 140))),
    st.sampled_from([0, 1, 5, 19, 25, 49, 241, 500]),
    st.booleans(),
)
def test_a_convolution_of_any_channels_and_images_is_torch_s(
    sides: tuple[int, int, int], channels: tuple[int, int], images: int, transposed: bool
) -> None:
    """Values and gradients, in double precision by torch: in all blocks that channels and images are cut into."""
    side, kernel, stride = sides
    small = (side + 2 * (kernel // 2) - kernel) // stride + 1
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (side,) * 2, (small,) * 2)
    narrow, wide = channels
    random = torch.Generator().manual_seed(images)
    maps = torch.randn(2 * images, *((narrow, small, small) if transposed else (wide, side, side)), generator=random)
    leaves = [maps.requires_grad_(), torch.randn(2, narrow, wide, kernel, kernel, generator=random).requires_grad_()]
    bias = torch.randn(2, wide if transposed else narrow, generator=random)
    result = convolve_compiled(leaves[0], leaves[1], bias, geometry, transposed)
    found = [result, *torch.autograd.grad(result.square().sum(), leaves)]
    doubled = [each.detach().double().requires_grad_() for each in leaves]
    parts = [
        functional.conv_transpose2d(part, own, shift, stride, kernel // 2, geometry.output_padding)
        if transposed
        else functional.conv2d(part, own, shift, stride, kernel // 2)
        for part, own, shift in zip(doubled[0].chunk(2) if images else doubled * 2, doubled[1], bias.double(), strict=False)
        if images
    ]
    if images:
        expected = torch.cat(parts)
        for one, other in zip(found, [expected, *torch.autograd.grad(expected.square().sum(), doubled)], strict=True):
            assert_close(one.detach(), other.detach())
    else:
        assert result.shape == (0, wide if transposed else narrow, *([side, side] if transposed else [small, small]))
        assert torch.count_nonzero(found[2]) == 0


MISFITS: dict[str, Callable[[], object]] = {
    "channels of a convolution": lambda: halved(torch.ones(4, 3, 5, 5)),
    "sides": lambda: halved(torch.ones(4, 4, 6, 5)),
    "images that are left over": lambda: halved(torch.ones(5, 4, 5, 5)),
    "double precision": lambda: halved(torch.ones(4, 4, 5, 5, dtype=torch.float64)),
    "bias": lambda: halved(torch.ones(4, 4, 5, 5), torch.ones(2, 7)),
    "channels of a norm": lambda: normalize_compiled(torch.ones(4, 16, 3, 3), torch.ones(2, 8), torch.ones(2, 8), 1e-5, True),
    "rows that are left over": lambda: normalize_compiled(torch.ones(5, 8), torch.ones(2, 8), torch.ones(2, 8), 1e-5, True),
}


def halved(maps: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution of two networks from 4 x 5 x 5 to 8 x 3 x 3."""
    return convolve_compiled(maps, torch.ones(2, 8, 4, 3, 3), bias, Geometry((3, 3), (2, 2), (1, 1), (5, 5), (3, 3)), False)


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused(misfit: str) -> None:
    """An architecture with a mistake is an error of its trial's, not one of the memory."""
    with pytest.raises(ValueError, match=r"not fit|for float32"):
        MISFITS[misfit]()


class AddsToItself(nn.Module):
    """Changes what a rectified norm gave, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        """Keeps the shape."""
        result: Tensor = self.block(maps)
        result += maps
        return result


@pytest.mark.usefixtures("each_way")
def test_a_change_in_place_that_would_spoil_a_gradient_is_an_error() -> None:
    """As torch has it: the gradient of a ReLU needs what came out of it."""
    net = stack([AddsToItself().train() for _ in range(2)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        net(torch.randn(4, 2, 4, 4)).sum().backward()


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
    declared = (compiler.FOLDER / "convolutions.cpp").read_text().partition("struct Sizes {")[2].partition("Index taps()")[0]
    found = [word.strip(" ,;") for word in declared.replace("Index", "").split() if word.strip(" ,;")]
    assert found == names.split()
    geometry = Geometry((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
    assert [*kernels._sizes(-4, -3, -2, -1, geometry)] == [-4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.skipif("avx512f" not in PROCESSOR, reason="the processor has no vectors of 16 numbers")
def test_a_narrower_processor_gives_the_same_bits(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With vectors of 8 numbers in place of 16: sums have one order, so that the machines of a cluster agree."""
    results = []
    for options in ("", " -mno-avx512f"):
        monkeypatch.setattr(compiler, "FLAGS", FLAGS)
        monkeypatch.setenv("CXX", f"{shutil.which('c++')}{options}")
        forget()
        results.append(_everything())
    assert len({file.read_bytes() for file in own_cache.iterdir()}) == 2
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.skipif("avx" not in PROCESSOR, reason="the processor has vectors of 4 numbers as it is")
def test_the_narrowest_vectors_are_right_as_well(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 numbers and without fused multiply-add, as on processors of ten years ago: the same up to rounding."""
    wide = _everything()
    monkeypatch.setenv("CXX", f"{shutil.which('c++')} -mno-avx512f -mno-avx -mno-fma")
    forget()
    for one, other in zip(_everything(), wide, strict=True):
        assert_close(one.detach(), other.detach())
    assert len({file.read_bytes() for file in own_cache.iterdir()}) == 2


def _everything() -> list[Tensor]:
    """What all kernels give for some sizes."""
    random = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for large, small, channels in (((9, 9), (5, 5), (53, 37)), ((2, 2), (2, 2), (64, 40)), ((6, 6), (3, 3), (20, 1))):
        geometry = Geometry((3, 3), (2, 2) if large != small else (1, 1), (1, 1), large, small)
        weight = torch.randn(2, *channels, 3, 3, generator=random)
        for transposed in (False, True):
            side, size = (channels[0], small) if transposed else (channels[1], large)
            leaves = [torch.randn(38, side, *size, generator=random).requires_grad_(), weight.clone().requires_grad_()]
            result = convolve_compiled(leaves[0], leaves[1], None, geometry, transposed)
            found += [result, *torch.autograd.grad(result.square().sum(), leaves)]
    leaves = [torch.randn(*shape, generator=random).requires_grad_() for shape in ((80, 21, 5, 5), (2, 21), (2, 21))]
    result, mean, variance = normalize_compiled(*leaves, 1e-5, True)
    return [*found, result, mean, variance, *torch.autograd.grad(result.square().sum(), leaves)]
