"""The program in ``native``, compiled for this very processor when it is first needed and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "native"

COMPILERS = ("c++", "g++", "clang++")
VARIABLE = "CXX"
"""The variable that names another compiler, with options where it takes any."""

FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
FOR_THIS_PROCESSOR = ("-march=native",), ("-mcpu=native",), ()
"""What compilers call it; the first that the compiler takes counts."""

COMPILE_SECONDS = 120
COMPILING = "compiling-"
"""How the names of folders begin in which a process compiles."""


class NoKernelsError(Exception):
    """There is no compiled program here; says why in a line."""


class _Compiler(NamedTuple):
    """A compiler that is here.

    Attributes:
        words: Its command, with the options for this processor.
        version: What it says of itself, in a line.
    """

    words: tuple[str, ...]
    version: str


def load() -> ctypes.CDLL:
    """The compiled program, from the cache where it is there.

    Raises:
        NoKernelsError: if there is no compiler, or none that can do it, or no place to keep what it makes.
    """
    return _found()[0]


def version() -> str:
    """That of the compiler whose program this process has loaded, in a line; empty where it has loaded none."""
    return _found()[1].version if _found.cache_info().currsize else ""


@lru_cache(maxsize=1)
def _found() -> tuple[ctypes.CDLL, _Compiler]:
    failures = []
    for command in _commands():
        try:
            compiler = _examined(command)
            return _load_or_compile(compiler), compiler
        except (OSError, ValueError, subprocess.SubprocessError, NoKernelsError) as error:
            failures.append(f"{command[0]}: {error}")
    raise NoKernelsError(failures[0] if failures else "there is no C++ compiler")


def _commands() -> list[list[str]]:
    """The compilers to try, with their options."""
    named = os.environ.get(VARIABLE, "").strip()
    if named:
        try:
            return [shlex.split(named)]
        except ValueError as error:
            raise NoKernelsError(f"{VARIABLE} is {named!r}: {error}") from error
    return [[path] for path in dict.fromkeys(map(shutil.which, COMPILERS)) if path]


def _examined(command: Sequence[str]) -> _Compiler:
    """A compiler with its options for this processor, which are tried on an empty program."""
    version = _run([*command, "--version"]).stdout.partition("\n")[0].strip()
    for flags in FOR_THIS_PROCESSOR:
        if _run([*command, *flags, "-x", "c++", "-fsyntax-only", os.devnull], check=False).returncode == 0:
            return _Compiler((*command, *flags), version)
    raise NoKernelsError("it compiles not even an empty program")


def _load_or_compile(compiler: _Compiler) -> ctypes.CDLL:
    name = f"{_key(compiler)}.so"
    place = _cache() / name
    with suppress(OSError):  # it is not there yet, or damaged
        return ctypes.CDLL(str(place))
    _compile(compiler, place)
    return ctypes.CDLL(str(place))


def _cache() -> Path:
    try:
        import platformdirs
    except ImportError as error:  # training alone needs torch and nothing else
        raise NoKernelsError("platformdirs is not installed, which knows the place to keep them") from error
    folder = Path(platformdirs.user_cache_dir("harness")) / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(compiler: _Compiler) -> str:
    """Of all that the compiled program depends on: a folder may be shared by machines with other processors and systems."""
    system = (*platform.libc_ver(), platform.system(), _processor())
    parts = [*(path.read_text() for path in files()), repr((compiler, FLAGS, system))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def files() -> list[Path]:
    """Of the program."""
    return sorted(FOLDER.glob("*.[ch]pp"))


def _processor() -> str:
    """The processor with what it can do, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), *sorted(known)])


def _compile(compiler: _Compiler, place: Path) -> None:
    """Puts the compiled program into its place, whole or not at all: several processes may do so at once."""
    sources = [str(path) for path in files() if path.suffix == ".cpp"]
    _forget_killed(place.parent)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=COMPILING) as folder:
        made = Path(folder) / place.name
        done = _run([*compiler.words, *FLAGS, *sources, "-o", str(made)], check=False)
        if done.returncode:
            message = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
            raise NoKernelsError(message.strip())
        made.replace(place)


def _forget_killed(folder: Path) -> None:
    """Removes what processes that were killed while they compiled have left; no other takes so long."""
    for left in folder.glob(f"{COMPILING}*"):
        with suppress(OSError):  # another process removes it as well
            if time.time() - left.stat().st_mtime > 2 * COMPILE_SECONDS:
                shutil.rmtree(left)


def _run(words: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a compiler, whose messages are to be in English."""
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        words, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=check, env=environment
    )
