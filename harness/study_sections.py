"""The sections of single studies: each stands in the report of a sweep that has what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import wording
from harness.agreement import Agreement
from harness.choice_findings import change_of, single_changes
from harness.config import HEADLINES
from harness.confirmation import confirmed
from harness.contrasts import Contrast, contrasts
from harness.sections import Cell, Dossier, Section, Table, means_table, number_cell, p_cell
from harness.statistics import mean_interval
from harness.tables import trial_name

PENALTY = {
    "reconstruction_loss": "loss",
    "max_latent_correlation": "max abs(r)",
    "latent/max_abs_corr_rotated": "rotated",
    "transfer_accuracy": "accuracy",
    "transfer/rotated_accuracy": "rotated",
    "transfer/whitened_accuracy": "whitened",
    "transfer/linear_probe_accuracy": "linear probe",
    "transfer/linear_probe_whitened_accuracy": "whitened",
}
PATHS = {
    f"interpolation/{path}_{judge}": f"{path} {judge}"
    for judge in ("distance", "confidence")
    for path in ("linear", "spherical", "blend", "decoded")
}


def study_sections(dossier: Dossier) -> dict[str, Section]:
    """Those that this sweep has something for, by key."""
    made = {key: section(dossier) for key, section in STUDY_SECTIONS.items()} if dossier.evidence else {}
    return {key: section for key, section in made.items() if section is not None}


def _has(dossier: Dossier, topic: str) -> bool:
    return any(claim.topic == topic for claim in dossier.claims)


def choices(dossier: Dossier) -> Section | None:
    """Each single change against the first line."""
    if not _has(dossier, "choices") or dossier.evidence is None:
        return None
    baseline, variants = single_changes(dossier.evidence)
    losses = contrasts(variants, baseline, "reconstruction_loss", as_ratio=True)
    gains = contrasts(variants, baseline, "transfer_accuracy")
    by_line = {each.line.label: each for each in gains}
    rows = [
        [Cell(change_of(loss.line, baseline)), *_cells(loss, 1), *_cells(by_line.get(loss.line.label), 100)] for loss in losses
    ]
    columns = ("change", "loss, times", "p (Holm)", "accuracy, points", "p (Holm)")
    return Section("Single choices", ("choices",), tables=(Table("Against the first line, seed by seed", columns, rows),))


def _cells(found: Contrast | None, scale: float) -> list[Cell]:
    if found is None:
        return [Cell("-"), Cell("-")]
    value = found.change.mapped(lambda each: scale * each)
    text = wording.estimate(value, wording.decimal)
    return [Cell(text, value.mean), p_cell(found.test.corrected)]


def penalties(dossier: Dossier) -> Section | None:
    """Correlation, loss and transfer by weight, before and after a rotation."""
    if not _has(dossier, "penalty"):
        return None
    table = means_table(dossier, "Before and after a rotation of the codes", PENALTY)
    return Section("The decorrelation penalty", ("penalty",), tables=(table,))


def label_efficiency(dossier: Dossier) -> Section | None:
    """Accuracy against the number of labels."""
    if "label_efficiency" not in dossier.charts:
        return None
    return Section("Numbers of labels", ("crossings",), ("label_efficiency",))


def paths(dossier: Dossier) -> Section | None:
    """Lines, arcs and blended pixels."""
    if "paths_distance" not in dossier.charts:
        return None
    table = means_table(dossier, "Midpoints, by path", PATHS)
    return Section("Paths between codes", ("paths",), ("paths_distance", "paths_confidence"), (), (table,))


def prefixes(dossier: Dossier) -> Section | None:
    """One training against one for each size."""
    return Section("Prefixes", ("prefixes",), ("prefixes",)) if "prefixes" in dossier.charts else None


def stability(dossier: Dossier) -> Section | None:
    """Agreement of seeds by latent size, beside chance, and as heat maps."""
    if dossier.evidence is None or "agreement" not in dossier.charts:
        return None
    found = dossier.evidence.agreements
    rows = [_agreement_row(size, found) for size in next(iter(found.values()))]
    heads = [head for name in found for head in (name, "by chance")]
    table = Table(
        "Mean over pairs of seeds, with an interval over seeds, and the range of the pairs", ("latent size", *heads), rows
    )
    maps = [name for name in dossier.charts if name.startswith("agreement_")]
    return Section("Agreement between seeds", ("stability",), ("agreement", *maps), (), (table,))


def _agreement_row(size: int, found: Mapping[str, Mapping[int, Agreement]]) -> list[Cell]:
    cells = [Cell(str(size), size)]
    for by_size in found.values():
        each, chance = by_size[size], by_size[size].chance
        text = f"{wording.estimate(each.mean, wording.correlation)}; {min(each.pairs):.2f} to {max(each.pairs):.2f}"
        cells += [Cell(text, each.mean.mean), Cell(f"{chance:.2f}", chance)]
    return cells


def winners(dossier: Dossier) -> Section | None:
    """What the search found, and the same from fresh seeds."""
    found = confirmed(dossier.records)
    if not found:
        return None
    names = ("val/mse", *HEADLINES)
    rows = []
    for each in found:
        run = dossier.about.run_address(each.found.run_id)
        rows.append(
            [
                Cell(str(each.found.trial.number), each.found.trial.number, run),
                Cell(trial_name(each.found.trial, ()).rpartition(" seed=")[0]),
                *(cell for name in names for cell in _found_and_confirmed(each.found.metrics, each.replicates, name)),
            ]
        )
    columns = ("trial", "configuration", *(head for name in names for head in (f"{name}, found", "from fresh seeds")))
    return Section("Winners from fresh seeds", ("winners",), tables=(Table("", columns, rows),))


def _found_and_confirmed(metrics: Mapping[str, float], replicates: Sequence[Any], name: str) -> list[Cell]:
    values = [each.metrics[name] for each in replicates if name in each.metrics]
    again = Cell("-")
    if values:
        interval = mean_interval(values)
        again = Cell(wording.estimate(interval, wording.decimal), interval.mean)
    return [number_cell(metrics.get(name)), again]


STUDY_SECTIONS: dict[str, Callable[[Dossier], Section | None]] = {
    "choices": choices,
    "penalties": penalties,
    "label_efficiency": label_efficiency,
    "paths": paths,
    "prefixes": prefixes,
    "stability": stability,
    "winners": winners,
}
