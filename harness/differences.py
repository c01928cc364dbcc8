"""In what sweeps differ apart from their numbers: configuration, images, commit, versions, device."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.comparison import FIELDS
from harness.config import TrialRecord, field_rules
from harness.reader import StoredRun
from harness.sweeps import StoredSweep

MOST_VALUES = 8
SHORT = 12
"""Digits of a checksum that are shown."""

TAGS = {
    "mlflow.source.git.commit": "commit",
    "harness.git_diff": "changes to the commit",
    "harness.device": "device",
    "harness.device_name": "device's model",
    "harness.trainer": "trainer",
    "harness.precision": "precision",
    "harness.kernels": "kernels",
}
CHECKSUMS = ("mlflow.source.git.commit", "harness.git_diff")


@dataclass(frozen=True)
class Difference:
    """Something that is not the same for all sweeps.

    Attributes:
        what: Its name.
        values: One a sweep, in words.
    """

    what: str
    values: tuple[str, ...]


def differences(sweeps: Sequence[StoredSweep]) -> list[Difference]:
    """What is not the same for all sweeps, those that make numbers first; empty for a single sweep."""
    if len(sweeps) < 2:
        return []
    described = [_described(sweep) for sweep in sweeps]
    names = dict.fromkeys(name for each in described for name in each)
    found = [Difference(name, tuple(each.get(name, "-") for each in described)) for name in names]
    return [each for each in found if len(set(each.values)) > 1]


def _described(sweep: StoredSweep) -> dict[str, str]:
    runs, tags = sweep.runs, sweep.parent.tags
    failed = sum(run.status == "FAILED" for run in runs)
    return {
        "study": sweep.study,
        **{name: _values(name, sweep.records) for name in FIELDS},
        "images (SHA-256)": tags.get("harness.data_fingerprint", "-")[:SHORT],
        **{what: _tag_values(name, runs) for name, what in TAGS.items()},
        **_versions(runs),
        "trials": str(len(runs)) + (f", {failed} failed" if failed else ""),
    }


def _values(name: str, records: Iterable[TrialRecord]) -> str:
    """The values of a field of the configuration, in order."""
    kind = field_rules()[name].kind
    texts = dict.fromkeys(record.trial.config.to_params()[name] for record in records)
    return _listed(sorted(texts, key=_number) if kind in (int, float) else list(texts))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # the word for a default
        return float("-inf")


def _listed(texts: Sequence[str]) -> str:
    if len(texts) > MOST_VALUES:
        return f"{texts[0]} to {texts[-1]} ({len(texts)} values)"
    return ", ".join(texts)


def _tag_values(name: str, runs: Iterable[StoredRun]) -> str:
    texts = list(dict.fromkeys(run.tags.get(name, "-") for run in runs))
    return _listed([text[:SHORT] for text in texts] if name in CHECKSUMS else texts)


def _versions(runs: Iterable[StoredRun]) -> dict[str, str]:
    """The versions of the packages, by package."""
    found: dict[str, dict[str, None]] = {}
    for text in dict.fromkeys(run.tags.get("harness.versions", "{}") for run in runs):
        for package, version in json.loads(text).items():
            found.setdefault(f"version of {package}", {})[str(version)] = None
    return {name: _listed(list(versions)) for name, versions in found.items()}
