"""How long a study takes on this machine: a rough model of the work, and how fast the machine did such work before.

Loads the standard library only, so that ``--list`` answers at once.
"""

from __future__ import annotations

import itertools
import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

from harness.config import StudyConfig, TrialConfig
from harness.disk import write_whole

IMAGE_SECONDS, LABELLED_SECONDS, TRIAL_SECONDS = 1.4e-5, 2.4e-5, 0.2
"""Of one pass of an 8 x 8 image through ``base`` in training, of one through a classifier and its encoder, and of all else of a
trial; wall time of two cores that share the work, on the machine that the tables of ``benchmarks/README.md`` are of."""

ARCHITECTURE_WORK = {"base": 1.0, "deep": 1.7, "heavy": 2.2, "residual": 2.5, "dense": 2.5, "linear": 0.2}
"""Times the work of ``base``; an architecture that is not here counts like ``base``."""

TRAINING_IMAGES = {"digits": 1294, "usps": 6562}
LARGE_TRAINING_IMAGES, LARGE_IMAGE_WORK = 54_000, 6.5
"""Of datasets that are not named above, which are mostly of 28 x 28 pixels: images to train on, and work against 8 x 8."""

MOST_POINTS = 2000
"""Of a grid: of a larger one so many are looked at."""

LEAST_SECONDS = 20.0
"""Shorter sweeps say little of the machine: most of their time goes into starting."""

CONFIRMED_SHARE = 0.25
"""Of a search's trials, about so many are on its Pareto front."""


def model_seconds(study: StudyConfig) -> float:
    """About how long a study takes on the machine of the model."""
    if study.sampler != "grid":
        chosen = study.confirm and max(study.confirm, round(CONFIRMED_SHARE * (study.trials or 0)))
        return _trial_seconds(study.base) * ((study.trials or 0) + chosen * study.confirm_seeds)
    axes = itertools.product(*study.grid.values(), study.variants or ({},))
    size = math.prod(map(len, study.grid.values())) * max(1, len(study.variants))
    points = [dict(zip(study.grid, values, strict=False)) | dict(values[-1]) for values in itertools.islice(axes, MOST_POINTS)]
    configs = [replace(study.base, **point) for point in points]
    seconds = sum(map(_training_seconds, {config.training for config in configs})) + sum(map(_evaluation_seconds, configs))
    return seconds * study.seeds * size / len(points)


def _trial_seconds(config: TrialConfig) -> float:
    return _training_seconds(config) + _evaluation_seconds(config)


def _training_seconds(config: TrialConfig) -> float:
    images = min(config.train_size or _known(config), _known(config))
    return _work(config) * IMAGE_SECONDS * images * config.epochs


def _evaluation_seconds(config: TrialConfig) -> float:
    """With the encoder that was trained and with one that was not; and all else of a trial."""
    labelled = 2 * min(config.labels, _known(config)) * config.transfer_epochs * config.draws
    return _work(config) * LABELLED_SECONDS * labelled + TRIAL_SECONDS


def _known(config: TrialConfig) -> int:
    return TRAINING_IMAGES.get(config.dataset, LARGE_TRAINING_IMAGES)


def _work(config: TrialConfig) -> float:
    of_image = 1.0 if config.dataset in TRAINING_IMAGES else LARGE_IMAGE_WORK
    return ARCHITECTURE_WORK.get(config.architecture, 1.0) * of_image


def estimate(study: StudyConfig) -> str:
    """In words, how long a study takes: by what its last sweep here took, else by other sweeps here, else by the model alone."""
    paces = _read_paces()
    pace = paces.get(study.name) or (geometric_mean(paces.values()) if paces else 1.0)
    words = _duration(model_seconds(study) * pace)
    if study.name in paces:
        return f"{words} here"
    return f"about {words} here" if paces else f"about {words} on two cores"


def remember(study: StudyConfig, seconds: float) -> None:
    """Keeps how long a whole sweep took, against the model; nothing where there is no place to keep it."""
    expected = model_seconds(study)
    if min(seconds, expected) < LEAST_SECONDS:
        return
    paces = _read_paces() | {study.name: seconds / expected}
    with suppress(OSError):
        path = paces_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(json.dumps(paces).encode()))


def paces_path() -> Path:
    """The file with the time that sweeps took here over what the model says, by study."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("harness")) / "paces.json"


def _read_paces() -> dict[str, float]:
    """What is there; nothing where the file is missing or is not what it should be."""
    try:
        content = json.loads(paces_path().read_text(encoding="utf-8"))
        return {str(name): float(pace) for name, pace in content.items() if 0 < float(pace) < math.inf}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
