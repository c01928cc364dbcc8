"""The records that flow through the harness: frozen, picklable, checked on construction. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal

from harness.rules import Rule, UserError, shown, unknown

OWN = "default"
"""The word on a command line for "the architecture's own value"."""

DATASET_FIELDS = ("dataset", "image_size", "split_seed")
"""The fields that a whole sweep shares: they cannot be an axis of a grid."""


def _value(default: Any, kind: type, **limits: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(kind, **limits)})


def _later(default: Any, kind: type, **limits: Any) -> Any:
    """A field that came after sweeps had been run: its default is what was done before there was such a field."""
    return field(default=default, metadata={"rule": Rule(kind, **limits), "is_later": True})


LONGEST_AXIS = 100_000
"""Values of one axis of a grid: each is checked, and a range can name more than there is time for."""

MOST_CONFIRM_SEEDS = 999

STAGE_METRICS = ("pruning/val_mse_1", "pruning/val_mse_2")
"""The metrics that a pruner goes by: the validation loss when a third, and two thirds, of a training are done."""

EndStatus = Literal["finished", "failed", "pruned"]
"""How a trial can end."""

EVALUATION_FIELDS = ("labels", "draws", "transfer_epochs")
"""Fields that only the evaluation looks at: trials that differ in nothing else have the same autoencoder, to the bit."""

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
    decorrelation: float = _later(0.0, float, low=0, high=1e6)
    decorrelation_kind: str = _later("decov", str, choices=("decov", "barlow"))
    prefix: bool = _later(False, bool)
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

    @property
    def training(self) -> TrialConfig:
        """The configuration with the ``EVALUATION_FIELDS`` set to 1: equal for those that train the same network."""
        neutral: dict[str, Any] = dict.fromkeys(EVALUATION_FIELDS, 1)
        return replace(self, **neutral)

    def to_params(self) -> dict[str, str]:
        """The fields as text, those that are ``None`` in the word that the command line uses for it."""
        return {each.name: _as_text(each.metadata["rule"], getattr(self, each.name)) for each in fields(self)}

    def to_key(self) -> dict[str, Any]:
        """The fields for a name of what is trained; later ones only where they differ from what was done before them.

        So sweeps of before there was such a field keep their names.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {each.name: values[each.name] for each in fields(self) if not _is_as_ever(each, values[each.name])}

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


def _is_as_ever(each: Field[Any], value: Any) -> bool:
    return bool(each.metadata.get("is_later")) and value == each.default


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
        base: The fields that do not vary; ``base.seed`` is the first seed. In a search: the value of each field that
            ``search_space`` neither asks Optuna for nor sets to something else than its default, if the proposed architecture
            has the field. ``--set`` goes before both.
        grid: Values by field name, for the ``grid`` sampler: every combination is trained from every seed.
        variants: Values of fields that go together; each of these is trained at every point of the grid.
        seeds: Replicates of each point of a grid.
        sampler: ``grid``, or one of Optuna's, in which case the file also has ``search_space(trial) -> TrialConfig``.
        trials: How many configurations a sampler proposes.
        objectives: The metrics that a sampler optimises, each in its own direction.
        sweep_seed: Seed of the sampler.
        round_size: Configurations that a sampler proposes before it learns of their results.
        max_parameters: Larger models are not trained: a sampler that proposes one is asked again, and learns nothing of it.
        pruner: ``none``, or one that ends a sampler's hopeless trials early; for one objective.
        confirm: So many of a sampler's best trials, and all of its Pareto front, are trained again in the end.
        confirm_seeds: From so many fresh seeds each.
        measures: Groups of ``harness.measures.GROUPS`` that this study needs and not every study has.
        name: Taken from the file's name when it is empty.
    """

    question: str
    base: TrialConfig = TrialConfig()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    variants: Sequence[Mapping[str, Any]] = ()
    seeds: int = 3
    sampler: str = "grid"
    trials: int | None = None
    objectives: tuple[str, ...] = ("val/mse",)
    sweep_seed: int = 0
    round_size: int = 8
    max_parameters: int | None = None
    pruner: str = "none"
    confirm: int = 0
    confirm_seeds: int = 3
    measures: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("seeds", "round_size"):
            Rule(int, low=1).check(name, getattr(self, name))
        Rule(int, low=0).check("sweep_seed", self.sweep_seed)
        Rule(int, low=0).check("confirm", self.confirm)
        Rule(int, low=1, high=MOST_CONFIRM_SEEDS).check("confirm_seeds", self.confirm_seeds)
        for name in ("trials", "max_parameters"):
            Rule(int, low=1, none_word="none").check(name, getattr(self, name))
        for name in ("question", "sampler", "pruner", "name"):
            Rule(str).check(f"the study's {name}", getattr(self, name))
        if "/" in self.name:
            raise UserError(f"the study's name is {shown(self.name)}: allowed is a word without '/', as it names a file")
        self._check_kinds()
        for name, values in self.grid.items():
            self._check_axis(name, values)
        for variant in self.variants:
            self._check_variant(variant)
        if not self.objectives:
            raise UserError("the study has no objectives: give it at least one metric, such as 'val/mse'")
        self._check_sampler()

    @property
    def axes(self) -> tuple[str, ...]:
        """The fields that a grid varies: those of its axes, then those of its variants."""
        return tuple(dict.fromkeys([*self.grid, *(name for variant in self.variants for name in variant)]))

    def _check_sampler(self) -> None:
        """What is for grids and what for samplers."""
        if self.sampler == "grid":
            if not self.axes:
                raise UserError("the study's sampler is 'grid' and its grid is empty: give it an axis, such as latent_size")
            if self.max_parameters or self.confirm or self.pruner != "none":
                raise UserError("max_parameters, confirm and pruner are for samplers, and the study's sampler is 'grid'")
            return
        if self.axes or self.trials is None:
            raise UserError(f"the study's sampler is {self.sampler!r}: give it trials=N, and search_space instead of a grid")
        if self.pruner != "none" and tuple(self.objectives) != ("val/mse",):
            raise UserError(
                f"pruner {self.pruner!r} goes by 'val/mse' alone, which is known while a trial trains: "
                "make it the one objective, or leave the pruner out"
            )

    def _check_kinds(self) -> None:
        if not isinstance(self.base, TrialConfig):
            raise UserError(f"the study's base is {shown(self.base)}: allowed is a TrialConfig(...)")
        if not isinstance(self.objectives, list | tuple) or not all(isinstance(each, str) for each in self.objectives):
            raise UserError(f"the study's objectives are {shown(self.objectives)}: give a list of metrics, such as ('val/mse',)")
        if not isinstance(self.grid, Mapping):
            raise UserError(f"the study's grid is {shown(self.grid)}: give it lists of values by field, such as latent_size")
        if not isinstance(self.variants, list | tuple) or not all(isinstance(each, Mapping) for each in self.variants):
            raise UserError(f"the study's variants are {shown(self.variants)}: give a list of values by field, one for each")
        if not isinstance(self.measures, list | tuple) or not all(isinstance(each, str) for each in self.measures):
            raise UserError(f"the study's measures are {shown(self.measures)}: give a list of groups, such as ('paths',)")

    def _check_variant(self, variant: Mapping[str, Any]) -> None:
        for name, value in variant.items():
            self._check_varied(name).check(name, value)
            if name in self.grid:
                raise UserError(f"{name} is in a variant and an axis of the grid as well: leave it out of one of them")

    def _check_varied(self, name: str) -> Rule:
        """The rule of a field that trials of a grid may differ in."""
        rule = rule_of(name)
        if name in DATASET_FIELDS:
            raise UserError(f"{name} cannot be an axis of a grid, a sweep has one dataset: run the study once for each")
        if name == "seed":
            raise UserError("seed cannot be an axis of a grid: say how many replicates with seeds=N, or --seeds N")
        return rule

    def _check_axis(self, name: str, values: Sequence[Any]) -> None:
        rule = self._check_varied(name)
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
        kernels: What does the layers of a stack on a CPU: ``"compiled"`` or ``"torch"``; ``"auto"`` compiles them if it can.
    """

    data_root: str
    device: str = "cpu"
    data_fingerprint: str = ""
    trainer: str = "stacked"
    precision: str = "float32"
    kernels: str = "auto"


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
        status: ``"finished"``, ``"failed"``, or ``"pruned"`` where a search gave it up.
        metrics: The final numbers by metric name; only finite ones.
        curves: Per-epoch numbers by metric name, the first for epoch 1.
        artifacts: File contents by path.
        reason: Why it did not finish; one line, empty if it did.
        host: Of the worker that evaluated it; empty where none did.
        device_name: The model of what that worker computed on.
    """

    config: TrialConfig
    status: EndStatus
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    reason: str = ""
    host: str = ""
    device_name: str = ""


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
    status: EndStatus
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    failed_before: bool = False
