"""The sections of a sweep's report. To add one: a function of the dossier, and an entry in ``SECTIONS``, at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import pictures, wording
from harness.about import About
from harness.config import HEADLINES, TrialRecord
from harness.evaluation import TRANSFER_MODES
from harness.evidence import Claim, Evidence, enough
from harness.figures import Chart
from harness.lines import Line, together
from harness.loss_findings import rivals
from harness.statistics import Interval, compare_paired, correct, mean_interval
from harness.tables import Summary, short_text, trial_name

REDUNDANCY = {
    "max_latent_correlation": "max abs(r)",
    "latent/max_abs_corr_null95": "by chance (95 %)",
    "latent/mean_abs_corr": "mean abs(r)",
    "latent/total_correlation": "total correlation (nats)",
    "latent/effective_rank": "effective rank",
    "latent/dead_units": "dead units",
}
COST = {
    "cost/parameters": "parameters",
    "cost/train_seconds": "training (s)",
    "cost/samples_per_second": "images / s",
    "cost/peak_memory_mb": "peak memory (MB)",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is read.
        value: What it is sorted by, where that is not the text.
        link: Where it leads.
    """

    text: str
    value: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Attributes:
        title: Above it.
        columns: Their heads.
        rows: Of as many cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Image:
    """A picture that has no axes, and so no SVG."""

    name: str
    title: str
    png: bytes


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Its heading.
        topics: Keys of the findings whose sentences stand in it.
        charts: Names of charts.
        images: Pictures without axes.
        tables: Below them.
        html: Figures of another library, as HTML with its scripts; trusted.
    """

    title: str
    topics: Sequence[str] = ()
    charts: Sequence[str] = ()
    images: Sequence[Image] = ()
    tables: Sequence[Table] = ()
    html: str = ""


@dataclass(frozen=True)
class Dossier:
    """All that a report is made from.

    Attributes:
        about: The sweep itself.
        records: Of all trials that have ended.
        summary: In numbers.
        evidence: The same as lines; nothing where no trial has finished.
        claims: What it says.
        charts: By name.
        files: Pictures by path, as they are logged.
        read_file: From a run and a path to a file's content.
    """

    about: About
    records: Sequence[TrialRecord]
    summary: Summary
    evidence: Evidence | None
    claims: Sequence[Claim]
    charts: Mapping[str, Chart]
    files: Mapping[str, bytes]
    read_file: pictures.ReadFile = field(repr=False)


def autoencoding(dossier: Dossier) -> Section:
    """Loss against latent size, architectures compared, reconstructions."""
    tables = [means_table(dossier, "Means and 95 % intervals over seeds", {name: name for name in HEADLINES})]
    if dossier.evidence and (compared := _rivals(dossier.evidence)):
        tables.append(compared)
    images = _reconstructions(dossier)
    return Section("Autoencoding", ("dimensions", "architecture", "floors"), ("reconstruction_loss",), images, tables)


def interpolation(dossier: Dossier) -> Section:
    """Strips at a small and a large latent size, and how far midpoints are from data."""
    strips = dossier.files.get("figures/interpolation.png")
    images = [Image("interpolation", "The same pairs at a small and at a large latent size", strips)] if strips else []
    return Section("Interpolation", ("interpolation",), ("manifold_distance",), images)


def decorrelation(dossier: Dossier) -> Section:
    """Correlations against latent size, and as matrices."""
    table = means_table(dossier, "Redundancy of the codes", REDUNDANCY)
    return Section("Decorrelation", ("redundancy",), ("max_latent_correlation", "latent_correlations"), (), (table,))


def transfer(dossier: Dossier) -> Section:
    """Accuracy against latent size, and curves by epoch."""
    names = {
        f"transfer/{mode}_{what}": f"{mode} {what.replace('_', ' ')}"
        for what in ("accuracy", "best_epoch")
        for mode in TRANSFER_MODES
    }
    names |= {"transfer/raw_pixels_accuracy": "raw pixels", "transfer/pca_accuracy": "PCA scores"}
    table = means_table(dossier, "Accuracy, and the epoch of the lowest test loss", names)
    return Section(
        "Transfer with a handful of labels", ("labels", "modes"), ("transfer_accuracy", "transfer_curves"), (), (table,)
    )


def cost(dossier: Dossier) -> Section:
    """What the trials took."""
    return Section("Cost", tables=(means_table(dossier, "Means and 95 % intervals over seeds", COST),))


def all_trials(dossier: Dossier) -> Section:
    """Every trial, with its run."""
    axes, about = dossier.about.layout.axes, dossier.about
    rows = [
        [
            Cell(str(record.trial.number), record.trial.number),
            Cell(trial_name(record.trial, axes), link=about.run_address(record.run_id)),
            Cell(record.status if not record.reason else f"{record.status}: {record.reason}"),
            *(number_cell(record.metrics.get(name)) for name in (*HEADLINES, "val/mse", "cost/train_seconds")),
        ]
        for record in dossier.records
    ]
    columns = ("trial", "run", "status", *HEADLINES, "val/mse", "training (s)")
    return Section("Every trial", tables=(Table("", columns, rows),))


def means_table(dossier: Dossier, title: str, metrics: Mapping[str, str]) -> Table:
    """Means and intervals of some metrics by configuration, under the heads given; those that no trial has are left out."""
    summary = dossier.summary
    names = {name: head for name, head in metrics.items() if any(name in row.metrics for row in summary.rows)}
    rows = [
        [*(_value(row.point[axis]) for axis in summary.axes), *(_interval(name, row.metrics.get(name)) for name in names)]
        for row in summary.rows
    ]
    return Table(title, (*summary.axes, *names.values()), rows)


def _rivals(evidence: Evidence) -> Table | None:
    """The best line against each other one, size by size, corrected within each pair of lines."""
    rows = []
    for rival in rivals(evidence):
        rows += _by_size(evidence.best, rival.line)
        ratio = wording.estimate(rival.ratio, wording.decimal)
        every = Cell("all", max(evidence.best.sizes) + 1)
        rows.append([Cell(rival.line.label), every, Cell(ratio, rival.ratio.mean), *_p_cells(rival.test)])
    columns = ("against", "latent size", f"loss of {evidence.best.label} over its loss", "p", "p (Holm)")
    return Table(f"{evidence.best.label} against the others, seed by seed", columns, rows) if rows else None


def _by_size(best: Line, other: Line) -> list[list[Cell]]:
    blocks = together([(line, ["reconstruction_loss"]) for line in (best, other)])
    if not blocks:
        return []
    own, others = blocks
    tests = correct([compare_paired(own.at(size), others.at(size)) for size in own.sizes])
    ratios = [mean_interval(own.at(size) / others.at(size)) for size in own.sizes]
    return [
        [Cell(other.label), Cell(str(size), size), Cell(wording.estimate(ratio, wording.decimal), ratio.mean), *_p_cells(test)]
        for size, ratio, test in zip(own.sizes, ratios, tests, strict=True)
    ]


def _p_cells(test: Any) -> list[Cell]:
    return [p_cell(value) for value in (test.p_value, test.corrected)]


def p_cell(value: float) -> Cell:
    """A p value, or a dash for a single replicate, which has none."""
    return Cell("-") if math.isnan(value) else Cell(f"{value:.2g}", value)


def _value(value: Any) -> Cell:
    return Cell(short_text(value), value if isinstance(value, int | float) else None)


def _interval(name: str, value: Interval | None) -> Cell:
    if value is None:
        return Cell("-")
    is_known = value.half_width > 1e-9 * abs(value.mean)  # not for one seed, nor for what does not depend on it
    return Cell(f"{value.mean:.4g} ± {value.half_width:.2g}" if is_known else f"{value.mean:.4g}", value.mean)


def number_cell(value: float | None) -> Cell:
    """A number, or a dash where there is none."""
    return Cell("-") if value is None else Cell(f"{value:.4g}", value)


def _reconstructions(dossier: Dossier) -> list[Image]:
    """Those of the best line at its smallest size, where its loss bends, and at its largest."""
    if dossier.evidence is None:
        return []
    line = dossier.evidence.best
    sizes = sorted({line.sizes[0], enough(dossier.evidence), line.sizes[-1]})
    shown = [next(record for (size, _), record in sorted(line.trials.items()) if size == wanted) for wanted in sizes]
    return [
        Image(f"reconstructions_d{size}", f"{line.label}, d = {size}", dossier.read_file(record.run_id, "reconstructions.png"))
        for size, record in zip(sizes, shown, strict=True)
    ]


SECTIONS: dict[str, Callable[[Dossier], Section]] = {
    "autoencoding": autoencoding,
    "interpolation": interpolation,
    "decorrelation": decorrelation,
    "transfer": transfer,
    "cost": cost,
    "trials": all_trials,
}
