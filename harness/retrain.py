"""A trial trained again from the records of its sweep alone, in the way that made it: with all members of its group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from harness import datasets, plan
from harness.config import STAGE_METRICS, Placement, Trial, TrialConfig, TrialResult
from harness.groups import evaluation_parts, group_name, named_group
from harness.measures import METRICS
from harness.reader import StoredRun, StoreReader
from harness.rules import UserError, unknown
from harness.train import TrainState, segment_epochs
from harness.trial import PRECISIONS, evaluate_group, run_segment


@dataclass(frozen=True)
class Recipe:
    """What a trial was made from, as its record and those of its sweep have it.

    Attributes:
        run: That of the trial.
        sweep: Its parent run.
        members: The trials that trained together with it, itself among them, in their order: the last bits of a member depend
            on its place in the stack.
        placement: With the trainer, the precision, the kernels, the kind of device and the images' checksum; no data root yet.
        is_whole: Whether the first and the last member are there; if not, one of their runs was deleted.
        pruned: After how many segments a search gave members up, by number: the stack was smaller from then on.
    """

    run: StoredRun
    sweep: StoredRun
    members: tuple[Trial, ...]
    placement: Placement
    is_whole: bool
    pruned: Mapping[int, int] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[str, ...]:
        """The groups of measures that were asked for, by what was measured."""
        groups = {METRICS[name].group for name in self.run.metrics if name in METRICS}
        return tuple(sorted(groups - {""}))

    @property
    def trial(self) -> Trial:
        """The trial itself."""
        return next(each for each in self.members if each.number == self.run.number)


def find_recipe(reader: StoreReader, run: StoredRun) -> Recipe:
    """Reads what a trial was made from.

    Raises:
        UserError: if its sweep is gone, or its record lacks what this takes.
    """
    sweep = reader.run(run.tags.get("mlflow.parentRunId", ""))
    if sweep is None:
        raise UserError(f"the sweep of run {run.run_id} is gone, which holds the rest of its record: restore its run in MLflow")
    name, precision = run.tags.get("harness.group", ""), run.tags.get("harness.precision", "float32")
    if not all(part.isdigit() for part in name.split("-", 1)) or "-" not in name:
        raise UserError(f"run {run.run_id} does not say with which trials it trained (harness.group is {name!r}): name another")
    if precision not in PRECISIONS:
        raise unknown("precision of the run", precision, PRECISIONS)
    trial = _trial(run)
    runs = {each.number: each for each in reversed(reader.children(sweep))} | {trial.number: run}
    members = named_group(name, trial, map(_trial, runs.values()))
    pruned = {each.number: _stages(each) for each in runs.values() if each.end == "pruned"}
    placement = Placement(
        data_root="",
        device=run.tags.get("harness.device", "cpu"),
        data_fingerprint=sweep.tags.get("harness.data_fingerprint", ""),
        trainer=run.tags.get("harness.trainer", "stacked"),
        precision=precision,
        kernels=run.tags.get("harness.kernels", "torch"),  # the only ones that there were before the tag
    )
    return Recipe(run, sweep, tuple(members), placement, group_name(members) == name, pruned)


def _stages(run: StoredRun) -> int:
    return sum(name in run.metrics for name in STAGE_METRICS)


def _trial(run: StoredRun) -> Trial:
    return Trial(run.number, TrialConfig.from_params(run.params))


def place(recipe: Recipe, data_root: str | None, device: str) -> Placement:
    """Where to train: on the kind of device of the record where nothing else is asked for and it is there, by its kernels.

    Raises:
        UserError: if a device is asked for that is not there.
    """
    recorded = recipe.placement
    chosen = plan.choose_device("cpu" if device == "auto" and recorded.device == "cpu" else device)
    kernels = plan.choose_kernels("torch" if recorded.kernels == "torch" else "auto", chosen, recorded.trainer)
    return replace(recorded, data_root=datasets.data_root(data_root), device=chosen, kernels=kernels)


def read_images(config: TrialConfig, placement: Placement) -> datasets.ImageSet:
    """The images of a configuration as they are now.

    Raises:
        UserError: if they cannot be had.
    """
    datasets.prepare(config.dataset, placement.data_root)
    return datasets.load(config.dataset, placement.data_root, config.image_size)


def retrain(recipe: Recipe, placement: Placement, pixels: int, note: Callable[[str], None]) -> TrialResult:
    """Trains the group and evaluates the part of it to which the trial belongs, in this process.

    Args:
        recipe: Of the trial.
        placement: From ``place``.
        pixels: Of an image, channels and all.
        note: Is told how far it is.

    Returns:
        What the trial came to.
    """
    configs = [member.config for member in recipe.members]
    epochs = configs[0].epochs
    states: list[TrainState] | None = None
    at_once = 0
    for done in range(1, 1 + math.ceil(epochs / (step := segment_epochs(configs[0])))):
        segment = run_segment(configs, states, step, placement, at_once)
        given_up = [recipe.pruned.get(member.number) == done for member in recipe.members]
        states = [_given_up(recipe, state) if is_it else state for state, is_it in zip(segment.states, given_up, strict=True)]
        at_once = segment.at_once
        note(f"trained {max(state.epoch for state in states)} of {epochs} epochs")
    return _evaluate(recipe, states or [], placement, pixels)


def _given_up(recipe: Recipe, state: TrainState) -> TrainState:
    """Why is not found again: it rests on all trials before."""
    return replace(state, failure=recipe.run.tags.get("harness.reason") or "pruned, as it was then", is_pruned=True)


def _evaluate(recipe: Recipe, states: list[TrainState], placement: Placement, pixels: int) -> TrialResult:
    by_number = {member.number: state for member, state in zip(recipe.members, states, strict=True)}
    parts = evaluation_parts(recipe.members, placement, pixels)
    part = next(part for part in parts if any(member.number == recipe.trial.number for member in part))
    configs, own = [member.config for member in part], [by_number[member.number] for member in part]
    results = evaluate_group(configs, own, placement, recipe.measures)
    return next(result for member, result in zip(part, results, strict=True) if member.number == recipe.trial.number)
