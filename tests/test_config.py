"""The records: frozen, checked on construction, the same as text and in every process."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness.config import DATASET_FIELDS, StudyConfig, TrialConfig, field_rules, fingerprint, rule_of
from harness.rules import Rule, UserError

REPOSITORY = Path(harness.__file__).resolve().parents[1]

RULES = field_rules()
NUMBERS = [name for name, rule in RULES.items() if rule.kind in (int, float)]


def key_of(config: TrialConfig) -> str:
    """What a sweep's identity takes of a configuration."""
    return fingerprint(config.to_key())


def values_of(rule: Rule) -> st.SearchStrategy[Any]:
    """Every value that a field may hold; of whole numbers without an upper limit the first million."""
    if rule.choices:
        allowed: st.SearchStrategy[Any] = st.sampled_from(rule.choices)
    elif rule.kind is int:
        allowed = st.integers(int(rule.low), int(min(rule.high, rule.low + 1_000_000)))
    elif rule.kind is float:
        allowed = st.floats(rule.low, rule.high)
    else:
        allowed = {bool: st.booleans(), str: st.text()}[rule.kind]
    return st.none() | allowed if rule.none_word else allowed


def is_allowed(fields: dict[str, Any]) -> bool:
    """Whether the fields go together."""
    return fields["kernel_size"] in (None, 3, 5, 7) and (fields["loss"], fields["output_activation"]) != ("bce", "identity")


CONFIGS = st.fixed_dictionaries({name: values_of(rule) for name, rule in RULES.items()}).filter(is_allowed)


@settings(max_examples=100)
@given(CONFIGS)
def test_a_configuration_survives_text_and_pickle(fields: dict[str, Any]) -> None:
    """Whatever the fields hold, text and pickle give back an equal configuration with an equal key."""
    config = TrialConfig(**fields)
    for again in (TrialConfig.from_params(config.to_params()), pickle.loads(pickle.dumps(config))):  # noqa: S301 - its own
        assert (again, key_of(again)) == (config, key_of(config))


@settings(max_examples=50)
@given(CONFIGS)
def test_the_text_of_a_configuration_has_every_field(fields: dict[str, Any]) -> None:
    """Text is written for every field and no word of it is Python's None, True or False."""
    params = TrialConfig(**fields).to_params()
    assert list(params) == list(RULES)
    assert not {"None", "True", "False", ""} & {
        params[name] for name, rule in RULES.items() if rule.kind is not str or rule.choices
    }


def test_a_configuration_cannot_be_changed() -> None:
    """Assigning to a field raises."""
    config = TrialConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3  # type: ignore[misc]


def test_fields_missing_from_the_text_keep_their_defaults_and_strange_ones_are_ignored() -> None:
    """Runs of an older or newer harness can still be read."""
    assert TrialConfig.from_params({"latent_size": "7", "colour": "red"}) == TrialConfig(latent_size=7)


def test_a_field_that_came_later_is_in_no_key_that_was_there_before() -> None:
    """As long as it has its default: sweeps of before there was such a field keep their names."""
    key = TrialConfig().to_key()
    assert not {"decorrelation", "decorrelation_kind", "prefix"} & key.keys()
    assert key == {name: value for name, value in dataclasses.asdict(TrialConfig()).items() if name in key}
    assert TrialConfig(prefix=True).to_key() == {**key, "prefix": True}


def test_a_run_that_was_stored_before_there_was_a_field_is_read() -> None:
    """With the default, which is what was trained then."""
    later = {"decorrelation", "decorrelation_kind", "prefix"}
    params = {name: text for name, text in TrialConfig(latent_size=7).to_params().items() if name not in later}
    assert TrialConfig.from_params(params) == TrialConfig(latent_size=7)


def test_the_key_is_the_same_in_every_process() -> None:
    """Neither the process nor its hash seed is in the key."""
    code = "from tests.test_config import TrialConfig, key_of; print(key_of(TrialConfig(latent_size=7, learning_rate=0.1)))"
    keys = {key_of(TrialConfig(latent_size=7, learning_rate=0.1))}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        keys.add(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            ).stdout.strip()
        )
    assert len(keys) == 1


def test_the_key_is_sixteen_hexadecimal_digits() -> None:
    """A key is short and plain enough for a tag."""
    key = key_of(TrialConfig())
    assert len(key) == 16
    assert int(key, 16) >= 0


@pytest.mark.parametrize("name", RULES)
def test_every_field_changes_the_key(name: str) -> None:
    """No field is left out of the key."""
    rule = RULES[name]
    candidates = [*rule.choices, *((True, False) if rule.kind is bool else ()), *((rule.low, 4) if rule.kind is float else ())]
    candidates += [int(rule.low), int(rule.low) + 2] if rule.kind is int else []
    candidates += ["another"] if rule.kind is str and not rule.choices else []
    other = next(value for value in candidates if value != getattr(TrialConfig(), name))
    assert key_of(TrialConfig(**{name: other})) != key_of(TrialConfig())


def test_equal_configurations_have_equal_keys() -> None:
    """A learning rate written as a whole number is the same number."""
    assert TrialConfig(learning_rate=1) == TrialConfig(learning_rate=1.0)
    assert key_of(TrialConfig(learning_rate=1)) == key_of(TrialConfig(learning_rate=1.0))


def test_replicates_differ_in_their_seed_only() -> None:
    """Two seeds of one configuration are replicates, two latent sizes are not."""
    config = TrialConfig(latent_size=3, seed=5)
    assert config.replicate_of == TrialConfig(latent_size=3, seed=9).replicate_of
    assert config.replicate_of != TrialConfig(latent_size=4, seed=5).replicate_of


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    """Two mappings with equal items have one fingerprint, and another value gives another."""
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})


@pytest.mark.parametrize("name", RULES)
def test_a_value_of_another_kind_is_refused_by_name(name: str) -> None:
    """The error names the field, the value and what is allowed."""
    wrong: Any = 3 if RULES[name].kind in (str, bool) else "many"
    with pytest.raises(UserError) as caught:
        TrialConfig(**{name: wrong})
    assert f"{name} is {wrong!r}: allowed is {RULES[name].describe()}" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in RULES if not RULES[name].none_word])
def test_a_field_that_nothing_fills_in_cannot_be_none(name: str) -> None:
    """None is allowed only where it has a word of its own."""
    with pytest.raises(UserError, match=f"{name} is None"):
        TrialConfig(**{name: None})


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name].kind is not bool])
def test_true_is_not_a_number_or_a_word(name: str) -> None:
    """Python's True counts as 1; here it does not."""
    with pytest.raises(UserError, match=f"{name} is True"):
        TrialConfig(**{name: True})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_limits_of_a_number_are_allowed_and_what_lies_beyond_is_not(name: str) -> None:
    """Lowest and highest value are taken; the next one is refused with the field, the value and the limits."""
    rule = RULES[name]
    step = 1 if rule.kind is int else rule.low / 2 or 0.5
    for limit, beyond in ((rule.low, rule.low - step), (rule.high, rule.high * 2)):
        if math.isfinite(limit):
            assert getattr(TrialConfig(**{name: rule.kind(limit)}), name) == limit
            with pytest.raises(UserError) as caught:
                TrialConfig(**{name: rule.kind(beyond)})
            assert f"{name} is {rule.kind(beyond)!r}: allowed is {rule.describe()}" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400], ids=["nan", "inf", "-inf", "huge"])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    """Neither NaN nor infinity nor a whole number too long for a float is a learning rate."""
    with pytest.raises(UserError, match="learning_rate is "):
        TrialConfig(learning_rate=value)


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name].choices])
def test_a_misspelt_word_is_answered_with_the_nearest(name: str) -> None:
    """The error has the field, the word, all allowed ones and the nearest."""
    word = RULES[name].choices[0]
    with pytest.raises(UserError) as caught:
        TrialConfig(**{name: word + "e"})
    message = str(caught.value)
    assert message.startswith(f"unknown {name} {word + 'e'!r}")
    assert all(choice in message for choice in RULES[name].choices)
    assert f"did you mean {word!r}?" in message


@pytest.mark.parametrize("value", [2**63, 10**5000], ids=["64 bits", "5,001 digits"])
def test_a_whole_number_that_nothing_holds_is_refused(value: int) -> None:
    """Python writes none of more than 4,300 digits, in no message either."""
    with pytest.raises(UserError, match=f"epochs is .*: allowed is a whole number of at least 1, and at most {2**63 - 1}"):
        TrialConfig(epochs=value)


def test_a_text_that_is_no_utf_8_is_refused() -> None:
    """No store could hold it."""
    with pytest.raises(UserError, match=r"dataset is 'folder:\\udcff': allowed is a word in UTF-8"):
        TrialConfig(dataset="folder:\udcff")


def test_an_even_kernel_is_refused_with_the_odd_ones() -> None:
    """Only kernels with a middle fit the architectures."""
    with pytest.raises(UserError, match="kernel_size is 4: allowed are the odd sizes 3, 5 and 7"):
        TrialConfig(kernel_size=4)


def test_binary_cross_entropy_needs_outputs_between_0_and_1() -> None:
    """The error names both fields and both ways out."""
    with pytest.raises(UserError) as caught:
        TrialConfig(loss="bce", output_activation="identity")
    assert all(word in str(caught.value) for word in ("loss", "output_activation", "sigmoid", "mse"))


def test_an_unknown_field_is_answered_with_the_nearest() -> None:
    """The error lists the fields and proposes one."""
    with pytest.raises(UserError) as caught:
        rule_of("latent_sise")
    assert "unknown field 'latent_sise'" in str(caught.value)
    assert "did you mean 'latent_size'?" in str(caught.value)
    assert all(name in str(caught.value) for name in RULES)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("depth", "default", None),
        ("train_size", "all", None),
        ("epochs", "12", 12),
        ("learning_rate", "1e-3", 0.001),
        ("batch_norm", "yes", True),
        ("batch_norm", "OFF", False),
        ("activation", "gelu", "gelu"),
    ],
)
def test_a_value_is_read_from_text(name: str, text: str, value: object) -> None:
    """Text becomes a value of the field's own kind."""
    read = rule_of(name).parse(name, text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", "1e3"),
        ("epochs", "2.0"),
        ("epochs", ""),
        ("epochs", "default"),
        ("learning_rate", "nan"),
        ("learning_rate", "1e999"),
        ("batch_norm", "maybe"),
        ("depth", "none"),
        ("image_size", "7"),
        ("image_size", "65"),
        ("seed", "-1"),
        ("seed", "99999999999999999999"),
    ],
)
def test_text_that_is_no_such_value_is_refused_by_name(name: str, text: str) -> None:
    """What cannot be read, or cannot be a value of this field, names the field."""
    with pytest.raises(UserError, match=f"{name} is .*: allowed is "):
        rule_of(name).parse(name, text)


GRID = {"latent_size": (2, 5)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grid": {}}, ["grid", "axis"]),
        ({"grid": {"latent_sise": (2,)}}, ["latent_sise", "did you mean 'latent_size'"]),
        ({"grid": {"latent_size": ()}}, ["latent_size", "()", "list of values"]),
        ({"grid": {"latent_size": 5}}, ["latent_size", "5", "list of values"]),
        ({"grid": {"latent_size": (2, 2)}}, ["latent_size", "twice"]),
        ({"grid": {"latent_size": (2, 0)}}, ["latent_size is 0", "from 1 to 1024"]),
        ({"grid": {"loss": "mse"}}, ["loss", "'mse'", "list of values"]),
        ({"grid": {"loss": ("mse", "mce")}}, ["'mce'", "did you mean 'mse'"]),
        ({"grid": {"seed": (1, 2)}}, ["seed", "seeds=N"]),
        ({"grid": GRID, "seeds": 0}, ["seeds is 0", "at least 1"]),
        ({"grid": GRID, "trials": 0}, ["trials is 0", "at least 1"]),
        ({"grid": GRID, "trials": 1.5}, ["trials is 1.5", "whole number"]),
        ({"grid": GRID, "round_size": 0}, ["round_size is 0"]),
        ({"grid": GRID, "sweep_seed": -1}, ["sweep_seed is -1"]),
        ({"grid": GRID, "objectives": ()}, ["objectives", "val/mse"]),
        ({"grid": GRID, "objectives": "val/mse"}, ["objectives", "val/mse"]),
        ({"grid": GRID, "base": {"epochs": 3}}, ["base", "TrialConfig"]),
        ({"sampler": "tpe"}, ["'tpe'", "trials=N"]),
        ({"sampler": "tpe", "trials": 3, "grid": GRID}, ["'tpe'", "search_space"]),
        ({"grid": 5}, ["grid", "5", "lists of values"]),
        ({"variants": {"loss": "bce"}}, ["variants", "'bce'", "one for each"]),
        ({"variants": ({},)}, ["grid is empty"]),
        ({"variants": ({"loss": "mce"},)}, ["'mce'", "did you mean 'mse'"]),
        ({"variants": ({"latent_sise": 2},)}, ["latent_sise", "did you mean 'latent_size'"]),
        ({"variants": ({"seed": 2},)}, ["seed", "seeds=N"]),
        ({"variants": ({"latent_size": 3},), "grid": GRID}, ["latent_size", "an axis of the grid as well"]),
        ({"grid": GRID, "measures": "paths"}, ["measures", "'paths'", "list of groups"]),
        ({"grid": GRID, "confirm": 1}, ["confirm", "for samplers"]),
        ({"grid": GRID, "pruner": "median"}, ["pruner", "for samplers"]),
        ({"grid": GRID, "max_parameters": 100}, ["max_parameters", "for samplers"]),
        ({"sampler": "tpe", "trials": 3, "max_parameters": 0}, ["max_parameters is 0", "at least 1"]),
        ({"sampler": "tpe", "trials": 3, "confirm": -1}, ["confirm is -1", "at least 0"]),
        ({"sampler": "tpe", "trials": 3, "confirm_seeds": 0}, ["confirm_seeds is 0", "from 1 to 999"]),
        ({"sampler": "tpe", "trials": 3, "variants": ({"loss": "bce"},)}, ["'tpe'", "search_space"]),
        (
            {"sampler": "tpe", "trials": 3, "pruner": "median", "objectives": ("val/mse", "transfer_accuracy")},
            ["'median'", "'val/mse' alone"],
        ),
        (
            {"sampler": "tpe", "trials": 3, "pruner": "median", "objectives": ("transfer_accuracy",)},
            ["'median'", "'val/mse' alone"],
        ),
        ({"grid": {"latent_size": ([2], [3])}}, ["latent_size is [2]"]),
        ({"grid": {"epochs": range(1, 10**30)}}, ["epochs", "allowed are 100000 values"]),
        ({"grid": GRID, "objectives": (3,)}, ["objectives", "(3,)"]),
        ({"grid": GRID, "objectives": 3}, ["objectives", "val/mse"]),
        ({"grid": GRID, "name": "../mine"}, ["name", "'../mine'", "without '/'"]),
        ({"grid": GRID, "name": 3}, ["name is 3"]),
        ({"grid": GRID, "sampler": None}, ["sampler is None"]),
        *[({"grid": {name: (1, 2)}}, [name, "one dataset"]) for name in DATASET_FIELDS],
    ],
)
def test_a_study_that_makes_no_sense_is_refused(fields: dict[str, Any], words: list[str]) -> None:
    """The error names what is wrong, its value and what to write instead."""
    with pytest.raises(UserError) as caught:
        StudyConfig(question="Which?", **fields)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_study_cannot_be_changed_and_can_be_pickled() -> None:
    """A study is a record like the others."""
    study = StudyConfig(question="Which?", grid=GRID)
    assert pickle.loads(pickle.dumps(study)) == study  # noqa: S301 - its own
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.seeds = 3  # type: ignore[misc]
