"""Studies as text, and what is planned of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.config import TrialConfig
from harness.library import load_study
from harness.options import parse
from harness.plan import SweepPlan, make_plan

GRID = """\
from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(
    question="Which?",
    base=TrialConfig(epochs=3, train_size=64),
    grid={"architecture": ("base", "deep"), "latent_size": (2, 5)},
    seeds=2,
)
"""


SEARCH = """\
from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(question="Which?", sampler="random", trials=3)


def search_space(trial):
    return TrialConfig(latent_size=trial.suggest_int("latent_size", 1, 9))
"""


def plan_of(text: str, *words: str) -> SweepPlan:
    """The plan of a study file with this text."""
    Path("mine.py").write_text(text, encoding="utf-8")
    return make_plan(load_study("mine.py"), parse(["mine.py", "--device", "cpu", *words]))


def configs_of(sweep: SweepPlan) -> list[TrialConfig]:
    """What the trials train, in their order."""
    return [trial.config for trial in sweep.trials]


def write_npz(path: Path, pixel: int = 0) -> None:
    """Writes 40 images of two classes; ``pixel`` is one of theirs."""
    images = np.zeros((40, 8, 8), dtype=np.uint8)
    images[6, 0, 0], images[7, 3, 3] = 1, pixel
    np.savez(path, images=images, labels=np.arange(40) % 2)
