"""Whether a trial that was trained again is the one that was recorded, and what differs in how the two were made."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness import provenance
from harness.artifacts import MODEL_FOLDER
from harness.config import Placement, TrialResult
from harness.measures import METRICS
from harness.reader import StoredRun
from harness.recorded import reading
from harness.retrain import Recipe
from harness.saved import WEIGHTS_FILE, differing_weights, read_weights

Outcome = Literal["bit-equal", "within tolerance", "different"]

TRAINING_FILE, TRANSFER_FILE = "curves/training.csv", "curves/transfer.csv"
WEIGHTS_PATH = f"{MODEL_FOLDER}/{WEIGHTS_FILE}"
COMPARED_FILES = (TRAINING_FILE, TRANSFER_FILE, WEIGHTS_PATH)
SECONDS = "seconds"


@dataclass(frozen=True)
class Tolerance:
    """By how much a number may differ where rounding does.

    Attributes:
        names: A pattern of the numbers that it is for.
        share: Of the recorded number.
        fixed: What is added to that.
    """

    names: str
    share: float = 0.0
    fixed: float = 0.0


ROUNDING = (
    Tolerance(r"train_(loss|mse) in epoch 1", share=1e-3),
    Tolerance(r"val_mse in epoch 1", share=1e-2),
    Tolerance(r"reconstruction_loss|(train|val)/mse|latent/effective_rank", share=0.1),
    Tolerance(r"test/psnr_db|test/r2", share=0.03),
    Tolerance(r"interpolation/manifold_distance", share=0.15),
    Tolerance(r"(?:val/)?transfer_accuracy|transfer/\w+_accuracy", fixed=0.1),
    Tolerance(r"floor/\w+", share=1e-3),
    Tolerance(r"cost/parameters"),
)
"""About three times the largest differences between the two trainers, which only round in other ways (``base`` and ``heavy`` on
digits, 30 epochs), in the first epoch more: 5e-5 and 2e-4 of its losses were seen there, 0.04 of the final losses, 0.05 of the
manifold distance, 0.03 of accuracy. What is not named here (correlations, deviations, the middle of curves) rounding moves at
will, and is compared bit for bit only."""

COARSE = (Tolerance(r"(train_loss|train_mse|val_mse) in epoch 1", share=0.1), *ROUNDING)
"""For products in bfloat16, which has three digits."""

TOLERANCES = {"cpu": {"float32": ROUNDING, "bfloat16": COARSE}, "cuda": {"float32": ROUNDING, "bfloat16": COARSE}}
"""By kind of device and precision; the first that is for a number counts."""


@dataclass(frozen=True)
class Compared:
    """A number, then and now; NaN where there is none.

    Attributes:
        name: The metric, or the curve and its epoch.
        recorded: That of the run.
        found: That of the trial trained again.
        allowed: By how much they may differ to be within the tolerance.
    """

    name: str
    recorded: float
    found: float
    allowed: float

    @property
    def is_equal(self) -> bool:
        """To the last bit; none and none are equal."""
        return self.recorded == self.found or (math.isnan(self.recorded) and math.isnan(self.found))

    @property
    def is_near(self) -> bool:
        """Whether it is within the tolerance."""
        return self.is_equal or self.share <= 1

    @property
    def share(self) -> float:
        """Of what is allowed, how much the two differ."""
        apart = abs(self.recorded - self.found)
        return apart / self.allowed if self.allowed else math.inf


@dataclass(frozen=True)
class Field:
    """Something that a number may depend on, then and now; empty where it is not known.

    Attributes:
        name: Such as ``commit``.
        recorded: That of the run.
        found: That of this place.
    """

    name: str
    recorded: str
    found: str


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        outcome: In a word.
        numbers: Every metric that does not depend on time, and every point of the curves.
        weights: How many tensors of the model differ, and of how many; nothing where the run has no model.
        reasons: Why the trial failed, then and now; empty where it did not.
    """

    outcome: Outcome
    numbers: tuple[Compared, ...]
    weights: tuple[int, int] | None
    reasons: tuple[str, str] = ("", "")

    @property
    def differing(self) -> list[Compared]:
        """The numbers that are not equal to the last bit."""
        return [each for each in self.numbers if not each.is_equal]

    @property
    def far(self) -> list[Compared]:
        """The numbers that are beyond the tolerance."""
        return [each for each in self.numbers if not each.is_near]


def differing_fields(recipe: Recipe, placement: Placement, fingerprint: str) -> list[Field]:
    """What numbers may depend on and is not the same here as in the record.

    Args:
        recipe: Of the trial.
        placement: Where it is trained again.
        fingerprint: SHA-256 of the images that are here.
    """
    tags = recipe.run.tags
    commit, dirty = provenance.git_state()
    changes = provenance.git_changes()
    fields = [
        Field("data fingerprint", recipe.placement.data_fingerprint, fingerprint),
        Field("device", recipe.placement.device, placement.device),
        Field("device's model", tags.get("harness.device_name", ""), provenance.device_name(placement.device)),
        Field("kernels", recipe.placement.kernels, placement.kernels),
        Field("commit", tags.get("mlflow.source.git.commit", ""), commit),
        Field("changes to the commit", _changes_then(tags), provenance.digest(changes) if changes else _dirty(dirty)),
        *_versions(json.loads(tags.get("harness.versions", "{}")), provenance.versions()),
    ]
    if not recipe.is_whole:
        fields.append(Field("group", tags["harness.group"], f"only {len(recipe.members)} of its members are in the store"))
    return [field for field in fields if field.recorded != field.found]


def _changes_then(tags: Mapping[str, str]) -> str:
    return tags.get("harness.git_diff") or _dirty(tags.get("harness.git_dirty") == "true")


def _dirty(is_dirty: bool) -> str:
    return "some" if is_dirty else ""


def _versions(recorded: Mapping[str, str], found: Mapping[str, str]) -> Iterable[Field]:
    for name in dict.fromkeys([*recorded, *found]):
        yield Field(f"version of {name}", recorded.get(name, ""), found.get(name, ""))


def check_recorded(run: StoredRun, files: Mapping[str, bytes]) -> None:
    """Sees that a run's files can be compared with, which is better known before the training than after it.

    Raises:
        UserError: if one is damaged.
    """
    for path, content in files.items():
        with reading(run.run_id, path):
            if path == WEIGHTS_PATH:
                read_weights(content)
            else:
                _points(content)


def verify(run: StoredRun, files: Mapping[str, bytes], result: TrialResult, placement: Placement) -> Verdict:
    """Compares a run with what its trial came to when it was trained again.

    Args:
        run: The trial's.
        files: Contents of those of ``COMPARED_FILES`` that it has.
        result: Of the training now.
        placement: Where that was.
    """
    tolerances = TOLERANCES[placement.device.partition(":")[0]][placement.precision]
    reasons = (run.tags.get("harness.reason", ""), result.reason)
    ended_early = run.status != "FINISHED" and result.status != "finished"  # and has no numbers but those of its epochs
    names = list(result.metrics) if ended_early else [name for name in METRICS if not _depends_on_time(name)]
    pairs = {name: (run.metrics.get(name, math.nan), result.metrics.get(name, math.nan)) for name in names}
    for path in (TRAINING_FILE, TRANSFER_FILE):
        pairs |= _curves(files.get(path, b""), result.artifacts.get(path, b""))
    numbers = [Compared(name, then, now, allowed(name, then, tolerances)) for name, (then, now) in pairs.items()]
    weights = None
    if WEIGHTS_PATH in files:
        weights = differing_weights(files[WEIGHTS_PATH], result.artifacts.get(WEIGHTS_PATH, b""))
    return Verdict(_outcome(run, result, numbers, weights), tuple(numbers), weights, reasons)


def _outcome(run: StoredRun, result: TrialResult, numbers: Sequence[Compared], weights: tuple[int, int] | None) -> Outcome:
    if (run.status == "FINISHED") != (result.status == "finished") or not all(each.is_near for each in numbers):
        return "different"
    same_reason = run.tags.get("harness.reason", "") == result.reason
    is_equal = same_reason and all(each.is_equal for each in numbers) and not (weights and weights[0])
    return "bit-equal" if is_equal else "within tolerance"


def _depends_on_time(name: str) -> bool:
    return name.startswith("cost/") and name != "cost/parameters"


def allowed(name: str, recorded: float, tolerances: Sequence[Tolerance]) -> float:
    """By how much a number may differ from the recorded one; infinite for one that no tolerance is for."""
    found = next((each for each in tolerances if re.fullmatch(each.names, name)), None)
    return found.share * abs(recorded) + found.fixed if found else math.inf


def _curves(recorded: bytes, found: bytes) -> dict[str, tuple[float, float]]:
    """Point by point, then and now; nothing where the run lacks the file."""
    then, now = _points(recorded), _points(found)
    names = dict.fromkeys([*then, *now]) if then else ()
    return {name: (then.get(name, math.nan), now.get(name, math.nan)) for name in names}


def _points(content: bytes) -> dict[str, float]:
    lines = csv.DictReader(content.decode().splitlines())
    return {
        f"{name} in epoch {line['epoch']}": float(value)
        for line in lines
        for name, value in line.items()
        if name not in ("epoch", SECONDS)
    }
