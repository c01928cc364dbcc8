"""What a reproduction comes to: equal, within rounding, or not."""

from __future__ import annotations

import pytest

from harness.artifacts import training_csv
from harness.config import EpochLog, Placement, TrialResult
from harness.models import resolve
from harness.reader import StoredRun
from harness.trial import PRECISIONS
from harness.verify import TOLERANCES, Compared, allowed, verify
from tests.support import TINY

CONFIG = resolve(TINY)


def outcome_of(
    then: dict[str, float], now: dict[str, float], logs: tuple[float, float] = (0.5, 0.5), reasons: tuple[str, str] = ("", "")
) -> str:
    """The verdict on two made-up trials."""
    files = [training_csv([EpochLog(1, loss, loss, loss, 1e-3, seconds)]) for loss, seconds in zip(logs, (1.0, 2.0), strict=True)]
    run = StoredRun("run", "1", "FAILED" if reasons[0] else "FINISHED", 0, metrics=then, tags={"harness.reason": reasons[0]})
    result = TrialResult(
        CONFIG, "failed" if reasons[1] else "finished", now, artifacts={"curves/training.csv": files[1]}, reason=reasons[1]
    )
    return verify(run, {"curves/training.csv": files[0]}, result, Placement("")).outcome


def test_the_outcome_rests_on_every_number_but_times() -> None:
    """Metrics, points of curves and reasons; a number that is missing on one side is no number within a tolerance."""
    loss = {"reconstruction_loss": 0.5, "cost/train_seconds": 3.0}
    assert outcome_of(loss, loss | {"cost/train_seconds": 4.0}) == "bit-equal"
    assert outcome_of(loss, {"reconstruction_loss": 0.5 + 2**-50}) == "within tolerance"
    assert outcome_of(loss, {"reconstruction_loss": 0.7}) == "different"
    assert outcome_of(loss, {}) == "different"
    assert outcome_of(loss, loss, logs=(0.5, 0.50001)) == "within tolerance"
    assert outcome_of(loss, loss, logs=(0.5, 0.51)) == "different"
    assert outcome_of({}, {}, reasons=("nan", "nan")) == "bit-equal"
    assert outcome_of({}, {}, reasons=("nan in epoch 3", "nan in epoch 2")) == "within tolerance"
    assert outcome_of({}, {}, reasons=("", "nan")) == "different"


@pytest.mark.parametrize(
    ("name", "recorded", "near", "far"),
    [
        ("reconstruction_loss", 0.01, 0.0105, 0.012),
        ("train_loss in epoch 1", 0.1, 0.10005, 0.101),
        ("transfer/frozen_accuracy", 0.8, 0.85, 0.6),
        ("floor/pca_mse", 0.02, 0.02001, 0.021),
        ("latent/mean_abs_corr", 0.2, 0.9, None),
        ("val_mse in epoch 12", 0.2, 0.9, None),
        ("transfer/frozen_accuracy_std", 0.02, 0.2, None),
    ],
)
def test_a_number_has_the_tolerance_that_rounding_gives_it(name: str, recorded: float, near: float, far: float | None) -> None:
    """Sharp in the first epoch and where nothing is trained; none where rounding decides."""
    limit = allowed(name, recorded, TOLERANCES["cpu"]["float32"])
    assert Compared(name, recorded, near, limit).is_near
    assert far is None or not Compared(name, recorded, far, limit).is_near
    assert not Compared(name, recorded, float("nan"), limit).is_near


def test_every_device_and_precision_has_tolerances() -> None:
    """All that a run may have been made with."""
    assert {kind: set(each) for kind, each in TOLERANCES.items()} == {"cpu": set(PRECISIONS), "cuda": set(PRECISIONS)}
    assert allowed("cost/parameters", 5.0, TOLERANCES["cuda"]["bfloat16"]) == 0
