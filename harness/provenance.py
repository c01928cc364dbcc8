"""What made a number: the commit and the versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness import __version__

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "optuna", "mlflow")


def git_state() -> tuple[str, bool]:
    """The commit of the checkout that the harness runs from, and whether it has changes; empty outside a checkout."""
    return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain"))


def versions() -> dict[str, str]:
    """Versions by package, those that are installed."""
    found = {"harness": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*words: str) -> str:
    try:
        ran = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()
