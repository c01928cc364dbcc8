"""The scripts under ``examples/`` run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import compare
from tests.stored import Stored
from tests.support import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tuned"])
def test_a_sweep_is_analysed_in_a_script(stored: Stored, tmp_path: Path, name: str) -> None:
    """Its table, its best trial and its model are those of the store, and Optuna draws it; of a search as of a grid."""
    words = [sys.executable, str(ROOT / "examples" / "analyse_sweep.py"), name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": stored.uri}
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    frame = compare.load(name, tracking_uri=stored.uri)
    for (architecture, size), rows in frame.groupby(["architecture", "latent_size"])["reconstruction_loss"]:
        assert any(line.split()[-4:-3] == [str(size)] and f"{rows.mean():.6f}" in line for line in ran.stdout.splitlines()), (
            architecture
        )
    best = frame.loc[frame["reconstruction_loss"].idxmin()]
    assert name == "tuned" or f"'seed': {best['seed']}" in ran.stdout
    assert "decoded: (4, 1, 8, 8)" in ran.stdout
    assert (tmp_path / "slice.png").read_bytes().startswith(b"\x89PNG")
