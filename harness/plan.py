"""From a study and a request to a checked plan: which trials, on which images, where, and what the sweep is called."""

from __future__ import annotations

import ast
import itertools
import logging
import math
import tokenize
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import datasets, models, options
from harness.config import EVALUATION_FIELDS, Placement, StudyConfig, Trial, TrialConfig, fingerprint
from harness.executors import EXECUTORS
from harness.kernels import why_not
from harness.library import SearchSpace, StudyFile
from harness.measures import GROUPS, METRICS
from harness.options import Request
from harness.provenance import RESULTS_VERSION
from harness.ray_executor import check_cluster
from harness.rules import UserError, unknown
from harness.samplers import check_sampler
from harness.search import SamplerSearch

LOG = logging.getLogger(__name__)

MOST_TRIALS = 100_000
"""Of a grid, which is a table that is made before its first trial: at a second each they would take a day."""


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep.

    Attributes:
        study: With the request's values in it.
        search_space: The study file's, where a sampler proposes the trials.
        overrides: Fields that the request sets over what a search space gives.
        source: Text of the study file.
        trials: The grid's trials; empty where a sampler proposes them.
        placement: Where workers find the images and compute.
        shape: Channels, height and width of an image.
        identity: Names the sweep: equal for two sweeps exactly where their trials would give the same numbers.
        note: What the user should know of the trials; mostly empty.
    """

    study: StudyConfig
    search_space: SearchSpace | None
    overrides: dict[str, Any]
    source: str
    trials: tuple[Trial, ...]
    placement: Placement
    shape: models.Shape
    identity: str
    note: str = ""

    @property
    def title(self) -> str:
        """Study and dataset, for people."""
        return f"{self.study.name} on {self.study.base.dataset}"

    @property
    def measures(self) -> tuple[str, ...]:
        """The groups of measures that its trials need beside what every study has."""
        return (*self.study.measures, *(("pruning",) if self.study.pruner != "none" else ()))

    @property
    def total(self) -> int:
        """The number of trials when all are done, without those that confirm the best of them."""
        return len(self.trials) if self.study.sampler == "grid" else self.study.trials or 0


def check(file: StudyFile, request: Request) -> StudyConfig:
    """Puts the request into the study and checks all of it without reading an image.

    Raises:
        UserError: at the first thing that is wrong.
    """
    study = options.apply(request, file.study)
    _check_executor(request)
    datasets.check_name(study.base.dataset, study.base.image_size)
    check_sampler(study)
    if study.base.architecture not in models.ARCHITECTURES:
        raise unknown("architecture", study.base.architecture, models.ARCHITECTURES)
    _check_measures(study)
    return study


def _check_executor(request: Request) -> None:
    if request.executor not in EXECUTORS:
        raise unknown("executor", request.executor, EXECUTORS)
    if request.executor == "ray":
        check_cluster(request.ray_address, request.resources)
    elif request.ray_address or request.resources:
        name = "--ray-address" if request.ray_address else "--resources"
        raise UserError(f"{name} is for --executor ray, and the executor is {request.executor!r}: leave it out, or add that")


def _check_measures(study: StudyConfig) -> None:
    """The objectives and the groups of measures."""
    for name in study.objectives:
        if name not in METRICS:
            raise unknown("objective", name, METRICS)
        if not METRICS[name].direction:
            raise UserError(f"objective {name!r} has no better direction: use one of {', '.join(_objectives())}")
        if METRICS[name].group not in ("", *study.measures):
            raise UserError(
                f"objective {name!r} is measured only where the study says so: add measures=({METRICS[name].group!r},)"
            )
    for name in study.measures:
        if name not in GROUPS:
            raise unknown("measure", name, GROUPS)


def make_plan(file: StudyFile, request: Request) -> SweepPlan:
    """Checks a study and a request against each other, gets the images and names the sweep.

    Raises:
        UserError: at the first thing that is wrong; nothing has been written then but downloaded images.
    """
    study = check(file, request)
    trials = grid_trials(study)
    first_round(study, file.search_space, request)
    device = worker_device(request) if request.executor == "ray" else choose_device(request.device)
    placement = Placement(
        data_root=datasets.data_root(request.data_root),
        device=device,
        trainer=request.trainer,
        precision=choose_precision(request.precision, device, request.trainer),
    )
    datasets.prepare(study.base.dataset, placement.data_root)
    data = datasets.load(study.base.dataset, placement.data_root, study.base.image_size)
    kernels = choose_kernels(request.kernels, device, request.trainer)  # last, as it may compile them
    placement = replace(placement, data_fingerprint=data.fingerprint, kernels=kernels)
    plan = SweepPlan(
        study=study,
        search_space=file.search_space,
        overrides=_overrides(study, request),
        source=_read_source(file.path),
        trials=trials,
        placement=placement,
        shape=data.shape,
        identity="",
        note=note_of_doubles(study),
    )
    return replace(plan, identity=fingerprint(_what_changes_results(plan)))


def grid_trials(study: StudyConfig) -> tuple[Trial, ...]:
    """The grid's table: every combination of its axes, all of them from one seed before the next seed.

    More seeds thus add trials at the end, and a smaller ``trials`` cuts some off there. Combinations that come to the
    same network once the architecture's own values are filled in are trained once, under the first name that they have.

    Raises:
        UserError: if it has more trials than are allowed, or one that cannot be trained.
    """
    if study.sampler != "grid":
        return ()
    size = study.seeds * math.prod(map(len, study.grid.values())) * max(1, len(study.variants))
    if size > MOST_TRIALS:
        raise UserError(f"the grid has {size} trials: allowed are {MOST_TRIALS}; give it fewer values or fewer --seeds")
    distinct: dict[TrialConfig, TrialConfig] = {}
    for config in _grid_configs(study):
        distinct.setdefault(models.same_network(config), config)
    return tuple(Trial(number, config) for number, config in enumerate(list(distinct.values())[: study.trials]))


def _grid_configs(study: StudyConfig) -> list[TrialConfig]:
    """Every combination, the architecture's own values filled in; those that train one network one after the other."""
    names = sorted(study.grid, key=EVALUATION_FIELDS.__contains__)
    points = [dict(zip(names, values, strict=True)) for values in itertools.product(*(study.grid[name] for name in names))]
    return [
        models.resolve(replace(study.base, **point, **variant, seed=study.base.seed + replicate))
        for replicate in range(study.seeds)
        for point in points
        for variant in study.variants or ({},)
    ]


def note_of_doubles(study: StudyConfig) -> str:
    """Which combinations of a grid are left out, as they are networks of it under another name; empty where none is."""
    if "architecture" not in study.axes:
        return ""
    configs = list(dict.fromkeys(_grid_configs(replace(study, seeds=1))))
    first: dict[TrialConfig, TrialConfig] = {}
    doubles = [config for config in configs if first.setdefault(models.same_network(config), config) != config]
    if not doubles:
        return ""
    names = dict.fromkeys(f"{each.architecture} is {first[models.same_network(each)].architecture}" for each in doubles)
    return (
        f"{len(doubles)} of {len(configs)} configurations are left out: they are networks that the grid has under another name "
        f"({', '.join(names)} there, with the same width, depth and all else)"
    )


def first_round(study: StudyConfig, search_space: SearchSpace | None, request: Request) -> list[Trial]:
    """What a sampler proposes first, before it knows anything; nothing for a grid.

    Raises:
        UserError: if the search space raises or gives what cannot be trained.
    """
    if study.sampler == "grid" or search_space is None:
        return []
    directions = [METRICS[name].direction for name in study.objectives]
    return SamplerSearch(study, directions, search_space, _overrides(study, request), models.resolve, {}).next_round()


def choose_device(wanted: str) -> str:
    """Turns ``auto`` into the device that there is here.

    Raises:
        UserError: if CUDA is wanted and there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is 'cuda', and torch finds no CUDA device here: use --device cpu, or auto")
    return "cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda"


def worker_device(request: Request) -> str:
    """Where the workers of a cluster compute, whatever this machine has: on a GPU where one is asked for."""
    if request.device == "auto":
        return "cuda" if request.resources.get("GPU") else "cpu"
    return request.device


def choose_precision(wanted: str, device: str, trainer: str) -> str:
    """Turns ``auto`` into what was measured to pay without leaving the spread between seeds: float32 so far.

    Raises:
        UserError: if bfloat16 is wanted of the plain trainer, which has float32 only.
    """
    if trainer == "plain" and wanted == "bfloat16":
        raise UserError("--precision is 'bfloat16', and the plain trainer has float32 only: leave --trainer out, or use float32")
    return "float32" if wanted == "auto" else wanted


def choose_kernels(wanted: str, device: str, trainer: str) -> str:
    """Turns ``auto`` into what does the layers of stacks: on a CPU compiled kernels where they can be had, else torch.

    Raises:
        UserError: if compiled ones are wanted where they cannot be had, or by the plain trainer or a GPU, which have none.
    """
    if device != "cpu" or trainer == "plain":
        if wanted == "compiled":
            who = "the plain trainer" if trainer == "plain" else f"device {device}"
            raise UserError(f"--kernels is 'compiled', and {who} does without: leave --kernels out")
        return "torch"
    if wanted == "torch":
        return "torch"
    reason = why_not()
    if reason and wanted == "compiled":
        raise UserError(f"--kernels is 'compiled', and they cannot be had ({reason}): install a C++ compiler")
    if reason:
        LOG.warning("no compiled kernels (%s): training takes up to 1.6 times as long, and sweeps begun with them wait", reason)
    return "torch" if reason else "compiled"


def _overrides(study: StudyConfig, request: Request) -> dict[str, Any]:
    """The fields that are set over what a search space gives; a grid has them in its base."""
    if study.sampler == "grid":
        return {}
    return (options.SMOKE if request.smoke else {}) | {name: values[0] for name, values in request.fields.items()}


def _objectives() -> list[str]:
    return [name for name, metric in METRICS.items() if metric.direction]


def _what_changes_results(plan: SweepPlan) -> dict[str, Any]:
    """All that a trial's numbers depend on; how many seeds or trials there are is not among it."""
    study = plan.study
    shared: dict[str, Any] = {
        "version": RESULTS_VERSION,
        "study": study.name,
        "data": plan.placement.data_fingerprint,
        "device": plan.placement.device.partition(":")[0],
        "computed": [plan.placement.trainer, plan.placement.precision, *_compiled(plan.placement)],
        "sampler": study.sampler,
        **({"measures": sorted(study.measures)} if study.measures else {}),
    }
    if study.sampler == "grid":
        axes = [[name, list(values)] for name, values in study.grid.items()]  # in order: it numbers the trials
        variants = {"variants": [dict(each) for each in study.variants]} if study.variants else {}
        return {**shared, "base": _without_axes(study).to_key(), "axes": axes, **variants}
    limits = {name: getattr(study, name) for name in ("max_parameters", "pruner") if getattr(study, name) not in (None, "none")}
    return {
        **shared,
        "overrides": plan.overrides,
        "base": study.base.to_key(),
        "file": _code_without_comments(plan.source),
        "search": [study.objectives, study.sweep_seed, study.round_size],
        **limits,
    }


def _compiled(placement: Placement) -> list[str]:
    """Nothing where torch does all the work, as it did before there were kernels."""
    return [placement.kernels] if placement.kernels == "compiled" else []


def _without_axes(study: StudyConfig) -> TrialConfig:
    defaults = TrialConfig()
    return replace(study.base, **{name: getattr(defaults, name) for name in study.grid})


def _declares_study(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["STUDY"]


def _read_source(path: Path) -> str:
    """The text of a Python file, in the encoding that it declares."""
    with tokenize.open(path) as file:
        return file.read()


def _code_without_comments(source: str) -> str:
    """The program that a text is: comments, docstrings and layout make no difference."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not _declares_study(node)]  # what matters of STUDY is in the identity itself
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
