"""What the command line says: words in, a checked ``Request`` out. Loads neither torch nor MLflow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from harness.config import DATASET_FIELDS, StudyConfig, rule_of
from harness.rules import LONGEST_SHOWN, Rule, UserError, is_text, shown, unknown

DEVICES = ("auto", "cpu", "cuda")
TRAINERS = ("stacked", "plain")
PRECISIONS = ("auto", "float32", "bfloat16")
KERNELS = ("auto", "compiled", "torch")

OUTAGE_MINUTES = 30.0
"""So long a sweep goes on without its store, where nothing else is said."""

SMOKE: dict[str, Any] = {"train_size": 128, "epochs": 3, "transfer_epochs": 2, "draws": 2}
SMOKE_TRIALS = 6
"""What ``--smoke`` makes of a study: enough for every code path and every section, and for no finding."""

EPILOG = """\
examples:
  python -m harness.study latent_sweep
  python -m harness.study latent_sweep --dataset mnist --epochs 30 --seeds 1
  python -m harness.study latent_sweep --set architecture=base,deep --set latent_size=2,10
  python -m harness.study path/to/mine.py --dry-run

The same command again resumes a sweep that was cut short. Exit code: 0 when every trial has finished, 1 when some
have failed, 2 when the command or its input is wrong, 130 when it was interrupted.
"""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        study: Name of a study or path of a study file; empty with ``list_studies``.
        fields: Values for the study's fields, by name; several values make an axis of the grid.
        seeds: Replicates, where given.
        trials: How many trials at the most, where given.
        data_root: Folder of the downloaded datasets, where given.
        workers: Number of worker processes; 0 lets the harness choose.
        group_size: Networks that train together as one stack; 0 lets the harness choose.
        device: One of ``DEVICES``.
        trainer: One of ``TRAINERS``.
        precision: One of ``PRECISIONS``.
        kernels: One of ``KERNELS``.
        executor: Name of an executor.
        ray_address: Of the Ray cluster; empty for one of the command's own.
        resources: What a task takes of a node of the cluster, by name.
        tracking_uri: Of MLflow, where given.
        fresh: Start another sweep even where there is one to resume.
        retry_failed: Run failed trials again.
        retries: How often a worker may die of a trial before the trial has failed.
        dry_run: Only show the trials.
        json: Print the summary as JSON.
        smoke: Run the smallest setting of the study, to see that it works.
        list_studies: Only list the studies.
        replay: Folder of a journal that is only to be written into its store; empty where a study is to be run.
        outage_limit: Minutes that a sweep goes on while its store is away.
    """

    study: str = ""
    fields: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: int | None = None
    trials: int | None = None
    data_root: str | None = None
    workers: int = 0
    group_size: int = 0
    device: str = "auto"
    trainer: str = "stacked"
    precision: str = "auto"
    kernels: str = "auto"
    executor: str = "processes"
    ray_address: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    tracking_uri: str | None = None
    fresh: bool = False
    retry_failed: bool = False
    retries: int = 2
    dry_run: bool = False
    json: bool = False
    smoke: bool = False
    list_studies: bool = False
    replay: str = ""
    outage_limit: float = OUTAGE_MINUTES


class Parser(argparse.ArgumentParser):
    """The parser of a command of the harness: what is wrong with its words is one line, with the nearest name."""

    def error(self, message: str) -> NoReturn:
        """Raises the line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message} (see {self.prog} --help)")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Reads a command line, options and names in any order.

        Raises:
            UserError: if a word is no text, or an option is unknown or lacks its value.
        """
        for word in words:
            if "\0" in word or not is_text(word):
                raise UserError(f"{shown(word)} on the command line is no text: allowed is UTF-8 without null characters")
        self._check_option_names(words)
        return self.parse_intermixed_args(list(words))

    def _check_option_names(self, words: Sequence[str]) -> None:
        """Names the nearest option where one is unknown, which argparse does not."""
        known = [option for action in self._actions for option in action.option_strings]
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("--") and len(option) > 2 and option not in known:
                raise unknown("option", option, known)


def parse(words: Sequence[str]) -> Request:
    """Reads a command line.

    Raises:
        UserError: if a word or a value is not one that it may be.
    """
    options = _parser().read(words)
    if not options.study and not options.list and not options.replay:
        raise UserError("no study named: give one, such as latent_sweep; python -m harness.study --list shows them")
    return Request(
        study=options.study or "",
        fields=_fields(options),
        seeds=_whole("--seeds", options.seeds),
        trials=_whole("--trials", options.trials),
        data_root=options.data_root,
        workers=_whole("--workers", options.workers, auto=True) or 0,
        group_size=_whole("--group-size", options.group_size, auto=True) or 0,
        device=_one_of("--device", options.device, DEVICES),
        trainer=_one_of("--trainer", options.trainer, TRAINERS),
        precision=_one_of("--precision", options.precision, PRECISIONS),
        kernels=_one_of("--kernels", options.kernels, KERNELS),
        executor=options.executor,
        ray_address=options.ray_address or "",
        resources=_resources(options.resources),
        tracking_uri=options.tracking_uri,
        fresh=options.fresh,
        retry_failed=options.retry_failed,
        retries=_whole("--retries", options.retries) or 1,
        dry_run=options.dry_run,
        json=options.json,
        smoke=options.smoke,
        list_studies=options.list,
        replay=options.replay or "",
        outage_limit=Rule(float, low=0).parse("--outage-limit", options.outage_limit),
    )


def apply(request: Request, study: StudyConfig) -> StudyConfig:
    """Puts the request's values into a study, after ``smoke`` has made it small.

    One value sets a field, and takes it out of the grid if it was varied; several replace an axis or add one.

    Raises:
        UserError: if the study cannot take them.
    """
    study = make_small(study) if request.smoke else study
    grid, fields = dict(study.grid), {}
    for name, values in request.fields.items():
        if len(values) > 1:
            _check_axis(name, study)
            grid[name] = values
        else:
            grid.pop(name, None)
            fields[name] = values[0]
    base = replace(study.base, **fields)  # all at once: some fields are only allowed together
    if request.seeds is not None and study.sampler != "grid":
        raise UserError(f"--seeds is for grids, and {study.name} searches with {study.sampler!r}: use --trials N")
    variants = tuple({name: value for name, value in each.items() if name not in request.fields} for each in study.variants)
    if study.sampler == "grid" and not grid and not any(variants):
        grid = {"latent_size": (base.latent_size,)}
    return replace(
        study, grid=grid, variants=variants, base=base, seeds=request.seeds or study.seeds, trials=request.trials or study.trials
    )


def make_small(study: StudyConfig) -> StudyConfig:
    """The smallest study of the same kind: the ends of every axis, all variants, half the seeds, few images and epochs."""
    return replace(
        study,
        base=replace(study.base, **SMOKE),
        grid={name: tuple(dict.fromkeys((values[0], values[-1]))) for name, values in study.grid.items()},
        seeds=_fewer(study.seeds),
        trials=study.trials and min(study.trials, SMOKE_TRIALS),
        round_size=min(study.round_size, SMOKE_TRIALS // 2),
        confirm=min(study.confirm, 1),
        confirm_seeds=_fewer(study.confirm_seeds),
    )


def _fewer(seeds: int) -> int:
    """Half as many, two at the least if there were: intervals need two."""
    return min(seeds, max(2, seeds // 2))


def _check_axis(name: str, study: StudyConfig) -> None:
    if study.sampler != "grid":
        raise UserError(f"{name} has several values, and {study.name} searches with {study.sampler!r}: give it one value")
    if name in DATASET_FIELDS or name == "seed":
        instead = "--seeds N" if name == "seed" else "one command for each"
        raise UserError(f"{name} has several values, and a sweep has one: use {instead}")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m harness.study",
        description="Runs a study: trains every autoencoder it asks for, measures it, and records all of it in MLflow.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="name of a study (see --list), or path of a study file")
    what = parser.add_argument_group("what to run")
    what.add_argument("--list", action="store_true", help="list the studies, what each answers and how long it takes here")
    what.add_argument("--dry-run", action="store_true", help="show the trials and run none")
    what.add_argument("--smoke", action="store_true", help="the smallest setting of the study, in seconds: does it run here?")
    what.add_argument("--seeds", metavar="N", help="replicates of each configuration of a grid")
    what.add_argument("--trials", metavar="N", help="run at most N trials")
    what.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE[,VALUE...]", help="set a field, or the values of a grid axis"
    )
    what.add_argument("--epochs", action="append", metavar="N", help="the same as --set epochs=N")
    what.add_argument("--batch-size", action="append", metavar="N", help="the same as --set batch_size=N")
    what.add_argument("--fresh", action="store_true", help="start a new sweep even where there is one to resume")
    what.add_argument("--retry-failed", action="store_true", help="run the failed trials of a sweep again")
    data = parser.add_argument_group("images")
    data.add_argument(
        "--dataset",
        action="append",
        metavar="NAME",
        help="digits, mnist, fashion_mnist, kmnist, emnist, usps, folder:PATH (a sub-folder for each class) or npz:PATH",
    )
    data.add_argument(
        "--data-root", metavar="DIR", help="where datasets are kept (default: HARNESS_DATA, else the user's cache folder)"
    )
    data.add_argument("--train-size", action="append", metavar="N|all", help="at most so many training images")
    data.add_argument(
        "--image-size", action="append", metavar="N", help="side to which images of folder:PATH are resized (default 32)"
    )
    where = parser.add_argument_group("where to run")
    where.add_argument(
        "--workers", default="auto", metavar="N|auto", help="worker processes (default auto: one for each core, or GPU)"
    )
    where.add_argument(
        "--retries", default="2", metavar="N", help="a trial of which a worker dies N times has failed (default %(default)s)"
    )
    where.add_argument("--group-size", default="auto", metavar="N|auto", help="networks that are trained together as one stack")
    where.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where to train (default auto)")
    where.add_argument(
        "--trainer", default="stacked", metavar="NAME", help="stacked (default), or plain: one trial after the other"
    )
    where.add_argument(
        "--precision", default="auto", metavar="NAME", help="of products in training: float32 (default auto) or bfloat16"
    )
    where.add_argument(
        "--kernels",
        default="auto",
        metavar="NAME",
        help="of stacks on a CPU: compiled for this processor (default auto, where there is a C++ compiler) or torch",
    )
    where.add_argument("--executor", default="processes", metavar="NAME", help="inline, processes (default) or ray")
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="with ray: auto (the cluster that this machine is in), HOST:PORT or ray://HOST:PORT (default: RAY_ADDRESS, else "
        "a cluster of this machine alone)",
    )
    where.add_argument(
        "--resources",
        metavar="NAME=AMOUNT[,...]",
        help="with ray: what a task takes of a node: CPU (default 1), GPU (0.5 lets two tasks share one), memory, or a name of "
        "the cluster's own",
    )
    where.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)"
    )
    where.add_argument(
        "--outage-limit",
        default=str(OUTAGE_MINUTES),
        metavar="MINUTES",
        help=f"go on for so long while the store is away, with the results in a journal (default {OUTAGE_MINUTES:g})",
    )
    where.add_argument("--replay", metavar="PATH", help="only write the journal of this folder into its store; needs no STUDY")
    where.add_argument("--json", action="store_true", help="print the summary as JSON on stdout, everything else on stderr")
    return parser


_SHORTHANDS = ("dataset", "train_size", "image_size", "epochs", "batch_size")


def _fields(options: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    texts = [(name, text) for name in _SHORTHANDS for text in getattr(options, name) or ()]
    for setting in options.set:
        name, equals, text = setting.partition("=")
        if not equals or not text:
            raise UserError(f"--set {shown(setting)} is written FIELD=VALUE or FIELD=VALUE,VALUE, such as latent_size=2,10")
        texts.append((name.strip().replace("-", "_"), text))
    values: dict[str, tuple[Any, ...]] = {}
    for name, text in texts:
        if name in values:
            raise UserError(f"{name} is given twice: say it once, all its values with commas between")
        values[name] = _read_values(name, text)
    return values


def _read_values(name: str, text: str) -> tuple[Any, ...]:
    rule = rule_of(name)
    parts = [text] if name == "dataset" else [part.strip() for part in text.split(",")]
    values = tuple(rule.parse(name, part) for part in parts)
    if len(set(values)) < len(values):
        raise UserError(f"{name} names a value twice: {name}={text[:LONGEST_SHOWN]}")
    return values


def _resources(text: str | None) -> dict[str, float]:
    """Reads amounts by name."""
    amounts: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, equals, amount = (word.strip() for word in part.partition("="))
        if not name or not equals or name in amounts:
            raise UserError(
                f"--resources {shown(text)} is written NAME=AMOUNT,NAME=AMOUNT, each name once, such as CPU=2,GPU=0.5"
            )
        amounts[name] = Rule(float, low=0).parse(f"--resources {shown(name)}", amount)
    return amounts


def _whole(name: str, text: str | None, auto: bool = False) -> int | None:
    value = None if text is None else Rule(int, low=1, none_word="auto" if auto else "").parse(name, text)
    return int(value) if value is not None else None


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise unknown(name, text, allowed)
    return text
