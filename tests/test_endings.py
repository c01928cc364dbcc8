"""Real kills while a sweep is brought to its end: what is missing then is made up by the next command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harness.study import main
from tests.support import ROOT
from tests.test_command import SMALL

PARENTS = "tags.`harness.kind` = 'sweep'"

ENDING = """
import os, signal, sys
import mlflow
from harness.study import main
from harness.track import MlflowTracker

owner, step = {"set_registered_model_alias": mlflow.MlflowClient}.get(sys.argv[1], MlflowTracker), sys.argv[1]
plain = getattr(owner, step)


def killed(*arguments):
    if sys.argv[2] == "after":
        plain(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


setattr(owner, step, killed)
main(sys.argv[3:])
"""
"""The command, killed before or after one of the last things that it does."""


@pytest.mark.slow
def test_kills_while_a_sweep_is_brought_to_its_end_leave_it_to_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each next one is killed later. At the end there are the view, the model once, and no checkpoints."""
    words = [*SMALL[:4], "architecture=linear", *SMALL[5:], "--executor", "inline"]
    for step, when in (("write_outcome", "before"), ("set_registered_model_alias", "before"), ("end_sweep", "after")):
        ran = subprocess.run(
            [sys.executable, "-c", ENDING, step, when, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert main(words) == 0
    assert "was finished already: 4 of 4 trials have results" in capsys.readouterr().out
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("latent_sweep")
    (parent,) = client.search_runs([experiment.experiment_id], PARENTS)
    assert parent.info.status == "FINISHED"
    assert f"mlflow.sharedViewState.{parent.data.tags['harness.sweep']}" in experiment.tags
    best = client.get_model_version_by_alias("latent_sweep-digits", "best")
    assert best.description.startswith(f"Best val/mse of the sweep {parent.data.tags['harness.sweep']}: linear d=")
    assert len(client.search_model_versions("name = 'latent_sweep-digits'")) == 1
    assert list((tmp_path / "mlruns").glob(".checkpoints/*")) == []
