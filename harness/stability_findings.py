"""What seeds say of one another: do they find the same space of latents, and the same units in it?"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from harness import wording
from harness.agreement import MEASURES, Agreement, Codes, agreement_of
from harness.evidence import Claim, Evidence
from harness.pictures import ReadFile
from harness.recorded import reading

LEAST_SEEDS_OF_AGREEMENT = 5
"""Of a latent size; below that agreement between seeds is no question of the study."""

CODES_FILE = "latents/test_codes.npz"

SUBJECTS = {"linear CKA": "on the space of the latents", "best-match correlation": "unit by unit"}


def find_stability(evidence: Evidence) -> list[Claim]:
    """Whether two seeds agree more than chance does, on the space and on its units, at the smallest and the largest size."""
    if not evidence.agreements:
        return []
    found = {name: _ends(by_size) for name, by_size in evidence.agreements.items()}
    parts = [f"{SUBJECTS[name]} {_judgement(by_size)} ({name} {_measured(by_size)})" for name, by_size in found.items()]
    each = [agreement for by_size in found.values() for agreement in by_size.values()]
    sizes = set(next(iter(found.values())))
    runs = tuple(record.run_id for (size, _), record in sorted(evidence.best.trials.items()) if size in sizes)
    numbers = {f"{name}, d = {size}": one.mean.mean for name, by_size in found.items() for size, one in by_size.items()}
    is_resolved = all(one.mean.excludes(one.chance) for one in each)
    hedge = "" if is_resolved else f" Whether all of it is more than chance {wording.unsettled(each[0].mean.count)}."
    text = f"Two seeds of {evidence.best.label} agree {wording.listed(parts)}.{hedge}"
    return [Claim("stability", text, is_resolved, runs, numbers)]


def _ends(by_size: Mapping[int, Agreement]) -> dict[int, Agreement]:
    return {size: by_size[size] for size in (min(by_size), max(by_size))}


def _judgement(by_size: Mapping[int, Agreement]) -> str:
    """Against chance; the lower end of the interval counts."""
    above = [size for size, each in by_size.items() if each.mean.low > each.chance]
    if not above:
        return "no more than chance would have it"
    return "more than by chance" if len(above) == len(by_size) else f"more than by chance at {wording.sizes(above)} only"


def _measured(by_size: Mapping[int, Agreement]) -> str:
    return "; ".join(
        f"{wording.estimate(each.mean, wording.correlation)} at d = {size}, by chance {wording.correlation(each.chance)}"
        for size, each in by_size.items()
    )


def agreements(evidence: Evidence, read_file: ReadFile) -> dict[str, dict[int, Agreement]]:
    """How far the seeds of the best line agree, by measure and latent size; nothing where there are few seeds."""
    codes = _codes_by_size(evidence, read_file)
    by_measure = {name: {size: agreement_of(each, measure) for size, each in codes.items()} for name, measure in MEASURES.items()}
    return by_measure if codes else {}


def _codes_by_size(evidence: Evidence, read_file: ReadFile) -> dict[int, list[Codes]]:
    """The test images' codes of every seed of the best line, by latent size; without sizes of few seeds."""
    trials = sorted(evidence.best.trials.items())
    runs: dict[int, list[str]] = {}
    for (size, _), record in trials:
        runs.setdefault(size, []).append(record.run_id)
    return {size: _codes_of(each, read_file) for size, each in runs.items() if len(each) >= LEAST_SEEDS_OF_AGREEMENT}


def _codes_of(run_ids: Sequence[str], read_file: ReadFile) -> list[Codes]:
    found = []
    for run_id in run_ids:
        content = read_file(run_id, CODES_FILE)
        with reading(run_id, CODES_FILE), np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found.append(arrays["codes"])
    return found
