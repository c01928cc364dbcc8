"""The compiler of the kernels: what it makes is kept, taken again, and used where it is right."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import compiler, kernels
from harness.compiler import NoKernelsError
from harness.kernels import convolve_compiled, in_use, normalize_compiled
from harness.lowering import Geometry
from tests.stacking import assert_close
from tests.support import ROOT, Command

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
    for each in (compiler._found, kernels.why_not):
        each.cache_clear()


@pytest.fixture
def own_cache(needs_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with nothing in it; what is loaded from it is forgotten afterwards. What is compiled is not made fast."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in compiler.FLAGS))
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


@pytest.mark.slow
def test_several_processes_may_compile_at_once(own_cache: Path) -> None:
    """Each has what it needs afterwards, and there is one file."""
    program = "from harness import kernels; import sys; sys.exit(bool(kernels.why_not()))"
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len([*own_cache.iterdir()]) == 1


@pytest.mark.slow
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


def test_what_a_killed_process_has_left_is_removed(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next that compiles, once nobody can be at it any more."""
    slow = tmp_path / "slow"
    slow.write_text(f"{WILLING}exec sleep 60")
    slow.chmod(0o755)
    words = [sys.executable, "-c", "from harness import compiler; compiler.load()"]
    with Command(words, cwd=ROOT, env=os.environ | {"CXX": str(slow)}) as process:
        while not [*own_cache.glob("*")]:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    (left,) = own_cache.iterdir()
    compiler._forget_killed(own_cache)
    assert left.exists()
    os.utime(left, (0, 0))
    compiler.load()
    assert [path.suffix for path in own_cache.iterdir()] == [".so"]


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
    "sign of a product": ("products.hpp", "sums[p][v] += value *", "sums[p][v] -= value *"),
    "gradient of weights": ("products.hpp", "sums[u][r][v] += left", "sums[u][r][v] -= left"),
    "runs of positions": ("products.hpp", "sizes.stride_width, 1, over", "sizes.stride_width, 0, over"),
    "runs of images": ("products.hpp", "links.small_step = sizes.small()", "links.small_step = sizes.small() - 1"),
    "minimal filtering": ("minimal.hpp", "first - middle;", "first + middle;"),
    "its adjoint": ("minimal.hpp", "m0 - m1 - m2", "m0 - m1 + m2"),
    "ReLU": ("products.hpp", "no_less<N>(sums[p][v], task.floor)", "sums[p][v]"),
    "ReLU of minimal filtering": ("minimal.hpp", ": sum, floor));", ": sum, -INFINITY));"),
    "ReLU of few channels": ("few.hpp", "no_less<N>(sum, floor)", "sum"),
    "few channels": ("few.hpp", "sum += load", "sum -= load"),
    "gradient of few channels": ("few.hpp", "(y * sizes.stride_height + row)", "(y * sizes.stride_height)"),
    "channels side by side": ("products.hpp", "if (channels == WIDTH)", "if (channels >= WIDTH)"),
    "transposition": ("vectors.hpp", "rows[2 * n + 1] = interleaved<N, N / 2>", "rows[2 * n + 1] = interleaved<N, 0>"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    sides = (((9, 9), (5, 5), (53, 37)), ((2, 2), (2, 2), (64, 40)), ((6, 6), (3, 3), (20, 1)), ((12, 13), (6, 7), (17, 9)))
    for large, small, channels in sides:
        geometry = Geometry((3, 3), (2, 2) if large != small else (1, 1), (1, 1), large, small)
        weight = torch.randn(2, *channels, 3, 3, generator=random)
        for transposed in (False, True):
            side, size = (channels[0], small) if transposed else (channels[1], large)
            leaves = [torch.randn(52, side, *size, generator=random).requires_grad_(), weight.clone().requires_grad_()]
            result = convolve_compiled(leaves[0], leaves[1], None, geometry, transposed)
            found += [result, *torch.autograd.grad(result.square().sum(), leaves)]
    leaves = [torch.randn(*shape, generator=random).requires_grad_() for shape in ((80, 21, 5, 5), (2, 21), (2, 21))]
    result, mean, variance = normalize_compiled(*leaves, 1e-5, True)
    return [*found, result, mean, variance, *torch.autograd.grad(result.square().sum(), leaves)]
