"""The program of ``kernels.cpp``, compiled for this very processor when it is first needed and kept in the user's cache.

Without a C++ compiler there is none, and torch does the same work, slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILERS = ("c++", "g++", "clang++")
COMPILER = "CXX"
"""The variable that names another compiler, with options where it takes any."""

FLAGS = ("-std=c++20", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
FOR_THIS_PROCESSOR = ("-march=native",), ("-mcpu=native",), ()
"""What compilers call it; the first that the compiler takes counts."""

COMPILE_SECONDS = 120


class NoKernelsError(Exception):
    """There is no compiled program here; says why in a line."""


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """The compiled program, from the cache where it is there.

    Raises:
        NoKernelsError: if there is no compiler, or none that can do it, or no place to keep what it makes.
    """
    compiler = _compiler()
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=COMPILE_SECONDS, check=True).stdout
        place = _cache() / f"{_key(compiler, version)}.so"
        if not place.exists():
            _compile(compiler, place)
        return ctypes.CDLL(str(place))
    except (OSError, subprocess.SubprocessError) as error:
        raise NoKernelsError(f"{compiler[0]}: {error}") from error


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get(COMPILER, ""))
    if named:
        return named
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise NoKernelsError("there is no C++ compiler")


def _cache() -> Path:
    try:
        import platformdirs
    except ImportError as error:  # training alone needs torch and nothing else
        raise NoKernelsError("platformdirs is not installed, which knows the place to keep them") from error
    folder = Path(platformdirs.user_cache_dir("harness")) / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(compiler: Sequence[str], version: bytes) -> str:
    """Of all that the compiled program depends on: a folder may be shared by machines with other processors."""
    parts = [SOURCE.read_bytes(), repr((list(compiler), FLAGS, FOR_THIS_PROCESSOR)).encode(), version, _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    """The processor with what it can do, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), *sorted(known)])


def _compile(compiler: Sequence[str], place: Path) -> None:
    """Puts the compiled program into its place, whole or not at all: several processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = Path(folder) / place.name
        for flags in FOR_THIS_PROCESSOR:
            command = [*compiler, *FLAGS, *flags, str(SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
            if done.returncode == 0:
                made.replace(place)
                return
    message = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
    raise NoKernelsError(f"{compiler[0]}: {message.strip()}")
