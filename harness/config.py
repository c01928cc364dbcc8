"""The records that flow through the harness: frozen, picklable, checked on construction. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from harness.rules import Rule, UserError, shown, unknown

OWN = "default"
"""The word on a command line for "the architecture's own value"."""

DATASET_FIELDS = ("dataset", "image_size", "split_seed")
"""The fields that a whole sweep shares: they cannot be an axis of a grid."""


def _value(default: Any, kind: type, **limits: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(kind, **limits)})


LONGEST_AXIS = 100_000
"""Values of one axis of a grid: each is checked, and a range can name more than there is time for."""

HEADLINES = ("reconstruction_loss", "max_latent_correlation", "transfer_accuracy")
"""The metrics that tables and displays show of every trial."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One configuration to train once from one seed: everything that changes its numbers, and nothing else.

    A field that is ``None`` takes the architecture's own value (``harness.models.resolve`` fills it in); for
    ``image_size`` it means the size of the images as they are, for ``train_size`` all training images.
    """

    dataset: str = _value("digits", str)
    image_size: int | None = _value(None, int, low=8, high=64, none_word=OWN)
    train_size: int | None = _value(3300, int, low=16, none_word="all")
    split_seed: int = _value(0, int, low=0)
    architecture: str = _value("base", str)
    latent_size: int = _value(10, int, low=1, high=1024)
    seed: int = _value(0, int, low=0, high=2**40)
    depth: int | None = _value(None, int, low=1, high=6, none_word=OWN)
    width: int | None = _value(None, int, low=1, high=256, none_word=OWN)
    kernel_size: int | None = _value(None, int, low=3, high=7, none_word=OWN)
    activation: str | None = _value(None, str, choices=("relu", "gelu"), none_word=OWN)
    batch_norm: bool | None = _value(None, bool, none_word=OWN)
    output_activation: str | None = _value(None, str, choices=("sigmoid", "identity"), none_word=OWN)
    loss: str = _value("mse", str, choices=("mse", "bce"))
    learning_rate: float = _value(5e-3, float, low=1e-8, high=1e38)
    schedule: str = _value("one_cycle", str, choices=("one_cycle", "cosine"))
    batch_size: int = _value(64, int, low=2)
    epochs: int = _value(30, int, low=1)
    labels: int = _value(80, int, low=1)
    draws: int = _value(5, int, low=1, high=100)
    transfer_epochs: int = _value(30, int, low=1)

    def __post_init__(self) -> None:
        for each in fields(self):
            rule, value = each.metadata["rule"], getattr(self, each.name)
            rule.check(each.name, value)
            if rule.kind is float and isinstance(value, int):
                object.__setattr__(self, each.name, float(value))  # so that equal configurations have equal keys
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size is {self.kernel_size}: allowed are the odd sizes 3, 5 and 7")
        if self.loss == "bce" and self.output_activation == "identity":
            raise UserError(
                "loss is 'bce', which needs outputs in (0, 1), and output_activation is 'identity': "
                "set output_activation='sigmoid' or loss='mse'"
            )

    @property
    def replicate_of(self) -> TrialConfig:
        """The configuration with its seed set to 0: equal for replicates of one another."""
        return replace(self, seed=0)

    def to_params(self) -> dict[str, str]:
        """The fields as text, those that are ``None`` in the word that the command line uses for it."""
        return {each.name: _as_text(each.metadata["rule"], getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> TrialConfig:
        """Reads what ``to_params`` wrote; fields that the mapping lacks keep their defaults.

        Raises:
            UserError: if a value is not one that its field may hold.
        """
        rules = field_rules()
        return cls(**{name: rules[name].parse(name, text) for name, text in params.items() if name in rules})


def _as_text(rule: Rule, value: Any) -> str:
    if value is None:
        return rule.none_word
    return str(value).lower() if isinstance(value, bool) else str(value)


def field_rules() -> dict[str, Rule]:
    """The rule of every field of a ``TrialConfig``, by name."""
    return {each.name: each.metadata["rule"] for each in fields(TrialConfig)}


def rule_of(name: str) -> Rule:
    """The rule of one field.

    Raises:
        UserError: if there is no such field; with the nearest name.
    """
    rules = field_rules()
    if name not in rules:
        raise unknown("field", name, rules)
    return rules[name]


def fingerprint(content: Any) -> str:
    """Hashes JSON-like content: 16 hexadecimal digits of SHA-256, the same in every process."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a study varies and what it optimises; one file in ``studies/`` declares one.

    Attributes:
        question: What the study answers, in one line.
        base: The fields that do not vary; ``base.seed`` is the first seed.
        grid: Values by field name, for the ``grid`` sampler: every combination is trained from every seed.
        seeds: Replicates of each point of a grid.
        sampler: ``grid``, or one of Optuna's, in which case the file also has ``search_space(trial) -> TrialConfig``.
        trials: How many configurations a sampler proposes.
        objectives: The metrics that a sampler optimises, each in its own direction.
        sweep_seed: Seed of the sampler.
        round_size: Configurations that a sampler proposes before it learns of their results.
        name: Taken from the file's name when it is empty.
    """

    question: str
    base: TrialConfig = TrialConfig()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: int = 3
    sampler: str = "grid"
    trials: int | None = None
    objectives: tuple[str, ...] = ("val/mse",)
    sweep_seed: int = 0
    round_size: int = 8
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("seeds", "round_size"):
            Rule(int, low=1).check(name, getattr(self, name))
        Rule(int, low=0).check("sweep_seed", self.sweep_seed)
        Rule(int, low=1, none_word="none").check("trials", self.trials)
        for name in ("question", "sampler", "name"):
            Rule(str).check(f"the study's {name}", getattr(self, name))
        if "/" in self.name:
            raise UserError(f"the study's name is {shown(self.name)}: allowed is a word without '/', as it names a file")
        self._check_kinds()
        for name, values in self.grid.items():
            self._check_axis(name, values)
        if self.sampler == "grid" and not self.grid:
            raise UserError("the study's sampler is 'grid' and its grid is empty: give it an axis, such as latent_size")
        if self.sampler != "grid" and (self.grid or self.trials is None):
            raise UserError(f"the study's sampler is {self.sampler!r}: give it trials=N, and search_space instead of a grid")
        if not self.objectives:
            raise UserError("the study has no objectives: give it at least one metric, such as 'val/mse'")

    def _check_kinds(self) -> None:
        if not isinstance(self.base, TrialConfig):
            raise UserError(f"the study's base is {shown(self.base)}: allowed is a TrialConfig(...)")
        if not isinstance(self.objectives, list | tuple) or not all(isinstance(each, str) for each in self.objectives):
            raise UserError(f"the study's objectives are {shown(self.objectives)}: give a list of metrics, such as ('val/mse',)")
        if not isinstance(self.grid, Mapping):
            raise UserError(f"the study's grid is {shown(self.grid)}: give it lists of values by field, such as latent_size")

    def _check_axis(self, name: str, values: Sequence[Any]) -> None:
        rule = rule_of(name)
        if name in DATASET_FIELDS:
            raise UserError(f"{name} cannot be an axis of a grid, a sweep has one dataset: run the study once for each")
        if name == "seed":
            raise UserError("seed cannot be an axis of a grid: say how many replicates with seeds=N, or --seeds N")
        if not isinstance(values, (list, tuple, range)) or not values:
            raise UserError(f"the grid's axis {name} is {shown(values)}: give it a list of values")
        if values[LONGEST_AXIS:]:
            raise UserError(f"the grid's axis {name} is {shown(values)}: allowed are {LONGEST_AXIS} values; give it fewer")
        for value in values:
            rule.check(name, value)
        if len(set(values)) < len(values):
            raise UserError(f"the grid's axis {name} names a value twice: {shown(values)}")


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        number: Its place in the sweep, from 0; also its number in the Optuna study.
        config: What to train, with no field left to the architecture.
        proposal: What the sampler proposed, as JSON, for rebuilding the Optuna study; empty for a grid.
    """

    number: int
    config: TrialConfig
    proposal: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a worker finds the images and computes.

    Attributes:
        data_root: Folder with the downloaded datasets.
        device: ``"cpu"`` or ``"cuda"``.
        data_fingerprint: SHA-256 that the images must have; empty where any will do.
        trainer: ``"stacked"``, or ``"plain"`` for one trial after the other.
        precision: Of the products in training steps: ``"float32"`` or ``"bfloat16"``.
    """

    data_root: str
    device: str = "cpu"
    data_fingerprint: str = ""
    trainer: str = "stacked"
    precision: str = "float32"


@dataclass(frozen=True)
class EpochLog:
    """What one epoch of training gave.

    Attributes:
        epoch: From 1.
        train_loss: Mean of the training loss over the epoch's steps, batch norm in training mode.
        train_mse: Mean squared error per pixel over the same steps.
        val_mse: Mean squared error per pixel on the validation split, in evaluation mode.
        learning_rate: That of the epoch's last step.
        seconds: Wall time of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    train_mse: float
    val_mse: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrialResult:
    """What a trial came to.

    Attributes:
        config: What was trained.
        status: ``"finished"`` or ``"failed"``.
        metrics: The final numbers by metric name; only finite ones.
        curves: Per-epoch numbers by metric name, the first for epoch 1.
        artifacts: File contents by path.
        reason: Why it failed; one line, empty if it did not.
    """

    config: TrialConfig
    status: Literal["finished", "failed"]
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class TrialRecord:
    """An ended trial as the tracking store holds it: what reports and resumed sweeps are made from.

    Attributes:
        run_id: Of its run.
        trial: What was trained.
        status: ``"finished"`` or ``"failed"``.
        metrics: The final numbers by metric name; only finite ones.
        reason: Why it failed; empty if it did not.
        failed_before: Whether it had failed and was run again. A sampler has proposed the trials after it in the knowledge of
            that, and is told the same again when a sweep goes on.
    """

    run_id: str
    trial: Trial
    status: Literal["finished", "failed"]
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    failed_before: bool = False
