"""What made a number: the commit, the changes to it, the versions and the device."""

from __future__ import annotations

import platform
import subprocess
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness import __version__, compiler

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "optuna", "mlflow")

COMPILER = "C++ compiler"
"""What stands for the version of the compiler whose program the process has loaded."""

RESULTS_VERSION = 13
"""Raised whenever a change of the harness changes a trial's numbers, so that old and new ones are never mixed."""

LONGEST_DIFF = 1_000_000
"""Bytes of a difference that are kept."""


def git_state() -> tuple[str, bool]:
    """The commit of the checkout that the harness runs from, and whether it has changes; empty outside a checkout."""
    if not _is_in_checkout():
        return "", False
    return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain"))


def git_changes() -> str:
    """How that checkout differs from its commit, and the names of files that git does not know; empty where it does not."""
    if not _is_in_checkout():
        return ""
    changes = _git("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
    unknown = _git("ls-files", "--others", "--exclude-standard", "--full-name", ":/").splitlines()
    return "\n".join(filter(None, (changes, *(f"untracked: {name}" for name in unknown))))


def digest(changes: str) -> str:
    """SHA-256 of a difference, all of it."""
    return sha256(changes.encode()).hexdigest()


def shortened(changes: str) -> bytes:
    """A difference as it is kept: whole, or cut with a line that says so."""
    content = changes.encode()
    if len(content) <= LONGEST_DIFF:
        return content + b"\n"
    return content[:LONGEST_DIFF] + f"\n... cut here: {len(content)} bytes, of which the first {LONGEST_DIFF} are kept\n".encode()


def device_name(device: str) -> str:
    """The model of the GPU, or of the CPU where the device is one; what the system calls the machine where it does not say."""
    if device.startswith("cuda"):
        import torch

        names = (torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return ", ".join(dict.fromkeys(names))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions by package, those that are installed, and that of the numbers which this program makes."""
    found = {"harness": __version__, "harness's results": str(RESULTS_VERSION), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | ({COMPILER: made_by} if (made_by := compiler.version()) else {})


def program(kernels: str) -> dict[str, str]:
    """What else than the records decides a number's bits: the harness's own files, by a digest, and the libraries' versions.

    Args:
        kernels: As in ``Placement``: where they are compiled, the compiler decides as well.
    """
    files = [*sorted(Path(__file__).parent.glob("*.py")), *compiler.files()]
    own = sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    found = versions()
    libraries = ("torch", "numpy", "scikit-learn", *([COMPILER] if kernels == "compiled" else []))
    return {"harness": f"{__version__} ({own})"} | {name: found.get(name, "") for name in libraries}


def _is_in_checkout() -> bool:
    """Whether git keeps this very file: an installation may lie in a folder of somebody else's checkout."""
    return bool(_git("ls-files", Path(__file__).name))


def _git(*words: str) -> str:
    try:
        ran = subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip("\n")
