"""Is it worth to search with a model? ``python -m benchmarks.search`` compares samplers by the volume that their trials dominate.

Each repeat runs ``architecture_search`` once with each sampler, with as many trials, and takes the share of the box between
the best that there could be and a reference that is worse than all that counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.config import TrialRecord
from harness.display import PlainDisplay
from harness.library import StudyFile, load_study
from harness.options import Request, parse
from harness.pareto import hypervolume
from harness.plan import make_plan
from harness.rounds import Means
from harness.statistics import compare_paired, mean_interval
from harness.sweep import run_sweep
from harness.tracker import NullTracker

BOXES = {"val/mse": (0.0, 0.07), "val/max_latent_correlation": (0.0, 1.0), "val/transfer_accuracy": (1.0, 0.1)}
"""Of each objective the best that there could be, and a value that is worse than all that counts: the mean image's loss, one
unit that repeats another, an accuracy by chance. In units of the way from one to the other all objectives weigh the same."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samplers", default="tpe,random", help="the first is compared with the others")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("words", nargs="*", help="of python -m harness.study, without the study (put -- before options)")
    given = parser.parse_args(words)
    samplers = given.samplers.split(",")
    file, request = load_study("architecture_search"), parse(["architecture_search", *given.words])
    found: dict[str, list[float]] = {name: [] for name in samplers}
    for repeat in range(given.repeats):
        for name in samplers:
            found[name].append(dominated_share(run_search(file, request, name, repeat)))
            print(f"repeat {repeat}, {name}: {found[name][-1]:.4f}", flush=True)  # noqa: T201 - it takes minutes
    Console().print(_table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def run_search(file: StudyFile, request: Request, sampler: str, seed: int) -> list[TrialRecord]:
    """All trials of a search by a sampler, none of them confirmed; in memory only."""
    study = replace(file.study, sampler=sampler, sweep_seed=seed, confirm=0)
    plan = make_plan(replace(file, study=study), request)
    outcome = run_sweep(plan, Means(request.executor, request.workers), NullTracker(), PlainDisplay())
    return [record for row in outcome.summary.rows for record in row.trials]


def dominated_share(records: Sequence[TrialRecord]) -> float:
    """The share of the box that some trial dominates; a trial without one of the objectives counts for nothing."""
    points = [_place(record.metrics) for record in records if all(name in record.metrics for name in BOXES)]
    return hypervolume(points, [1.0] * len(BOXES))


def _place(metrics: Mapping[str, float]) -> list[float]:
    """Where a trial is in the box: 0 the best there could be, 1 the reference."""
    return [(metrics[name] - best) / (worst - best) for name, (best, worst) in BOXES.items()]


def _table(found: Mapping[str, Sequence[float]]) -> Table:
    table = Table("sampler", "dominated share, mean and 95 % interval", "the first one's lead over it", "p (paired)")
    first = next(iter(found.values()))
    for name, values in found.items():
        share, lead = mean_interval(values), compare_paired(first, values)
        against = [f"{lead.difference.mean:+.4f} ± {lead.difference.half_width:.4f}", f"{lead.p_value:.2g}"]
        table.add_row(name, f"{share.mean:.4f} ± {share.half_width:.4f}", *(against if values is not first else ["", ""]))
    return table


if __name__ == "__main__":
    main()
