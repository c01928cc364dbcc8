"""The same sweep by the harness and by what else there is, side by side in one run: ``python -m benchmarks.compare``.

Each contestant runs as a process of its own, from an empty folder and an empty MLflow store to the end of the sweep, one
after the other, round after round. All train the same networks on the same images for the same epochs from the same
initial weights, take the same measures, and write the same numbers, pictures, codes and models. The harness has its own
schedule of rates and evaluates a group at a time; the others have Adam's constant rate and evaluate one trial after the
other, with the harness's own plain functions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.children import interrupted_by_sigterm
from benchmarks.compare_science import science_tables
from benchmarks.compare_tables import Comparison, make_tables, read_comparison
from benchmarks.contestants import CONTESTANTS, OURS, Settings, check_contestants, default_threads, read_settings
from benchmarks.outings import Outing, OutingError, check_work, forget_files, run_outing
from harness import models
from harness.config import TrialConfig
from harness.display import print_lines, print_table
from harness.groups import choose_workers
from harness.material import Material
from harness.numerics import computing_on
from harness.provenance import git_state, versions
from harness.rules import Rule, UserError

DONE, NOT_DONE, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
PEAK_SIDE, PEAK_TRIES = 1024, 30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    try:
        with interrupted_by_sigterm():
            wanted = _parser().parse_args(words)
            comparison = _read(wanted.read) if wanted.read else _measure(wanted)
    except UserError as error:
        print_lines([f"error: {error}"], to_stderr=True)
        return WRONG_INPUT
    except OutingError as error:
        print_lines([f"error: {error}"], to_stderr=True)
        return NOT_DONE
    except KeyboardInterrupt:
        print_lines(["stopped: what was measured is in the file of --json, where there is one"], to_stderr=True)
        return INTERRUPTED
    show(comparison, wanted.markdown)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m benchmarks.compare", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), metavar="NAMES", help="of: %(default)s")
    parser.add_argument("--rounds", default="3", metavar="N", help="every contestant runs so often (default %(default)s)")
    parser.add_argument("--dataset", default="digits", metavar="NAME", help="as for harness.study (default %(default)s)")
    parser.add_argument("--data-root", metavar="DIR", help="where datasets are kept (default: as for harness.study)")
    parser.add_argument("--architectures", default="", metavar="NAMES", help="default: the study's, base,deep,heavy")
    parser.add_argument("--latent-sizes", default="", metavar="NUMBERS", help="default: the study's, 2,5,10,15,20,25,30")
    parser.add_argument("--seeds", metavar="N", help="replicates (default: the study's, 3)")
    parser.add_argument("--epochs", metavar="N", help="the same as --set epochs=N")
    parser.add_argument("--train-size", metavar="N|all", help="the same as --set train_size=N")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field, for everyone")
    parser.add_argument(
        "--science",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the harness once more with its plain trainer and compare the numbers",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured there")
    parser.add_argument("--read", type=Path, metavar="FILE", help="measure nothing, show what --json wrote")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser


def _measure(wanted: argparse.Namespace) -> Comparison:
    names = list(dict.fromkeys(name.strip() for name in wanted.contestants.split(",")))
    check_contestants(names)
    if wanted.json and not wanted.json.resolve().parent.is_dir():
        raise UserError(f"--json is {str(wanted.json)!r}, and there is no such folder: make it first")
    rounds = Rule(int, low=1).parse("--rounds", wanted.rounds)
    seeds = Rule(int, low=1).parse("--seeds", wanted.seeds) if wanted.seeds else None
    axes = (wanted.architectures, wanted.latent_sizes)
    settings = read_settings(wanted.dataset, wanted.data_root, *axes, seeds, read_fields(wanted))
    return compare(settings, names, rounds, wanted.science, wanted.json)


def read_fields(wanted: argparse.Namespace) -> dict[str, str]:
    """The fields that are set for everyone, as text.

    Raises:
        UserError: if one is not written FIELD=VALUE, has several values or is given twice.
    """
    pairs = [("epochs", wanted.epochs), ("train_size", wanted.train_size), *(text.partition("=")[::2] for text in wanted.set)]
    fields: dict[str, str] = {}
    for name, value in ((name.replace("-", "_"), value) for name, value in pairs if value is not None):
        if not value or "," in value or name in fields or name in ("dataset", "architecture", "latent_size", "seed"):
            raise UserError(f"{name}={value} is not one value of a field that may be set once for everyone (see --help)")
        fields[name] = value
    return fields


def compare(settings: Settings, names: Sequence[str], rounds: int, science: bool, file: Path | None = None) -> Comparison:
    """Runs every contestant in every round; those of a round take turns in being the first.

    What has been measured is written to the file after every round.

    Raises:
        OutingError: if a contestant did not do the work.
    """
    threads = default_threads(names)
    material = settings.job("").material(settings.base)
    comparison = Comparison(
        settings={**settings.base.to_params(), **_varied(settings)},
        machine={"cores": choose_workers(0, "cpu"), "threads": threads, "commit": git_state(), "versions": versions()},
        peaks=[],
        operations=count_operations(settings, material),
        outings=[],
    )
    for number in range(1, rounds + 1):
        comparison.peaks.append(measure_peak())
        comparison.outings.extend(_run_round(settings, turn(names, number), number, threads))
        _write(comparison, file)
    if science:
        _note("ours, with the plain trainer")
        comparison.science.append(forget_files(run_outing(OURS, 1, settings, threads, trainer="plain")))
        _write(comparison, file)
    return comparison


def _run_round(settings: Settings, names: Sequence[str], number: int, threads: int) -> list[Outing]:
    outings = {}
    for name in names:
        outings[name] = run_outing(name, number, settings, threads)
        _note(f"round {number}, {name}: {settings.trials} trials in {outings[name].seconds:.1f} s")
    for outing in outings.values():
        check_work(outing, outings[OURS])
    return [forget_files(outing) for outing in outings.values()]


def turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: everyone moves up by one place, the first goes to the end."""
    start = (number - 1) % len(names)
    return [*names[start:], *names[:start]]


def _varied(settings: Settings) -> dict[str, Any]:
    return {"architecture": settings.architectures, "latent_size": settings.latent_sizes, "seeds": settings.seeds}


def measure_peak() -> float:
    """Operations per second of one thread in a float32 matrix product by the fastest library, the best of some."""
    first, second, product = torch.randn(3, PEAK_SIDE, PEAK_SIDE).unbind()
    seconds = []
    with computing_on("cpu"):
        for _ in range(PEAK_TRIES):
            started = time.perf_counter()
            torch.mm(first, second, out=product)
            seconds.append(time.perf_counter() - started)
    return 2 * float(PEAK_SIDE) ** 3 / min(seconds)


def count_operations(settings: Settings, material: Material) -> dict[str, float]:
    """Floating-point operations of a trial's training and validation, by ``architecture/latent_size``."""
    job = settings.job("")
    return {
        f"{point['architecture']}/{point['latent_size']}": training_operations(job.config(point), material)
        for point in job.points
    }


def training_operations(config: TrialConfig, material: Material) -> float:
    """Those of the plain model: all full batches of an epoch forward and backward, the validation split forward."""
    model = models.build(material.shape, config)
    batch = material.splits.train.images[: config.batch_size]
    steps = len(material.splits.train.images) // len(batch)
    step = _count(model, batch, backward=True)
    validation = _count(model.eval(), material.splits.validation.images[:1], backward=False)
    return config.epochs * (steps * step + len(material.splits.validation.images) * validation)


def _count(model: nn.Module, images: torch.Tensor, backward: bool) -> float:
    with FlopCounterMode(display=False) as counter:
        loss = functional.mse_loss(model(images), images)
        if backward:
            loss.backward()
    return float(counter.get_total_flops())


def show(comparison: Comparison, as_markdown: bool) -> None:
    """Prints all tables."""
    for table in [*make_tables(comparison), *science_tables(comparison)]:
        if as_markdown:
            print_lines([table.markdown()])
            continue
        print_table(table.title, table.columns, table.rows, table.left)
        print_lines([table.note, ""] if table.note else [])


def _read(file: Path) -> Comparison:
    try:
        return read_comparison(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"--read is {str(file)!r}, which is not what --json writes: {error}") from None


def _write(comparison: Comparison, file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(asdict(comparison), indent=1) + "\n")


def _note(text: str) -> None:
    print_lines([text], to_stderr=True)


if __name__ == "__main__":
    sys.exit(main())
