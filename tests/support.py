"""The smallest of everything, for all tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.config import StudyConfig, TrialConfig
from harness.library import StudyFile

ROOT = Path(__file__).resolve().parent.parent

TINY = TrialConfig(train_size=64, epochs=2, transfer_epochs=2, draws=2, labels=20, latent_size=3)
"""A configuration that trains in a tenth of a second."""


def make_study_file(folder: Path, **changes: object) -> StudyFile:
    """A grid of two latent sizes and two seeds, in a file that is there but is not executed."""
    fields: dict[str, object] = {
        "question": "Is the smallest study there is a study?",
        "base": replace(TINY, architecture="linear"),
        "grid": {"latent_size": (2, 3)},
        "seeds": 2,
        "name": "tiny",
    }
    path = folder / "tiny.py"
    path.write_text("STUDY = None\n")
    return StudyFile(StudyConfig(**{**fields, **changes}), None, path)  # type: ignore[arg-type]


def torch_settings() -> tuple[object, ...]:
    """What a worker sets of torch's global state."""
    import torch

    deterministic, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    return torch.get_num_threads(), deterministic, filled, torch.backends.mkldnn.matmul.fp32_precision
