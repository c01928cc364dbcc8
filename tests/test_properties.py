"""Any words and any fields: a result, or exit code 2 and one line; never another exception, and nothing written."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness import options, plan, study
from harness.config import StudyConfig, TrialConfig, field_rules
from harness.library import StudyFile
from tests.properties import ANY_TEXT, EXAMPLES, contents, for_all, outcome
from tests.test_options import VALUES

RULES = field_rules()
SMALL = """\
from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(question="Which?", base=TrialConfig(epochs=1), grid={"latent_size": (2, 5)}, seeds=1)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one small study, that is the current one; no sweep is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr(study, "_run", lambda *arguments: pytest.fail("a sweep was started"))
    (tmp_path / "small.py").write_text(SMALL)
    return tmp_path


def allowed(name: str) -> st.SearchStrategy[Any]:
    """Values that a field may hold; of numbers small ones, so that there is a sweep of them."""
    rule, default = RULES[name], st.just(getattr(TrialConfig(), name))
    if rule.choices:
        return default | st.sampled_from(rule.choices)
    if rule.kind is int:
        return default | st.integers(int(rule.low), int(min(rule.high, rule.low + 99)))
    return default | {float: st.floats(rule.low, rule.high), bool: st.booleans(), str: st.text()}[rule.kind]


def text_of(name: str, value: Any) -> str:
    """A value as the command line writes it."""
    rule = RULES[name]
    return rule.none_word if value is None else str(value).lower() if rule.kind is bool else str(value)


def good_but_for_one(good: dict[str, st.SearchStrategy[Any]], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these entries, and at times something else in the place of one."""
    some = st.fixed_dictionaries({}, optional=good)
    return st.builds(dict.__or__, some, st.dictionaries(st.sampled_from(list(good)), bad, max_size=1))


# --- the command line

NUMBERS = st.sampled_from(
    ["0", "1", "2", "3", "-1", "1e3", "1.5", "nan", "inf", "1_0", "٣", "9" * 19, "9" * 5000, str(2**63), ""]
)
NAMES = st.sampled_from([*RULES, *[name.replace("_", "-") for name in RULES], "latent_sise", ""])
TEXTS = st.one_of(
    NUMBERS,
    st.sampled_from(
        ["base", "linear", "default", "all", "true", "OFF", "mse", "bce", "identity", "sigmoid", "relu", "one_cycle"]
    ),
    st.sampled_from(["digits", "mnist:", "folder:a", "npz:[/b]", "folder:\udcff", "npz:a\0b", "folder:" + "a" * 5000]),
    ANY_TEXT,
)
PLAIN = sorted(RULES.keys() - {"dataset", "image_size", "architecture", "kernel_size"})
GOOD_SETTINGS = st.one_of(
    st.just("architecture=base,deep"),
    st.just("dataset=folder:a,b"),
    st.sampled_from(PLAIN).flatmap(
        lambda name: st.lists(allowed(name).map(lambda value: text_of(name, value)), min_size=1, max_size=3, unique=True).map(
            lambda texts: f"{name}={','.join(texts)}"
        )
    ),
)
SETTINGS = st.builds("{}={}".format, NAMES, st.lists(TEXTS, max_size=4).map(",".join)) | ANY_TEXT
OPTIONS = [option for action in options._parser()._actions for option in action.option_strings if not option.startswith("-h")]
GOOD_WORDS = st.one_of(
    st.tuples(st.just("--set"), GOOD_SETTINGS),
    st.sampled_from([(option, text) for option, (text, _, _) in VALUES.items() if option not in ("--image-size", "--set")]),
    st.tuples(st.sampled_from(["--dry-run", "--json", "--fresh", "--retry-failed"])),
)
WORDS = st.one_of(
    GOOD_WORDS,
    st.tuples(st.just("--set"), SETTINGS),
    st.tuples(st.sampled_from([each for each in OPTIONS if each != "--help"]), TEXTS),
    st.tuples(st.builds("{}={}".format, st.sampled_from(OPTIONS), TEXTS)),
    st.tuples(st.sampled_from(["small.py", "latent_sweep", "../small", "--", "-", "--list"])),
    st.tuples(ANY_TEXT),
)


def commands(words: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[list[str]]:
    """Some of these words, one after the other."""
    return st.lists(words, max_size=4).map(lambda groups: [word for group in groups for word in group])


GOOD_COMMANDS = commands(GOOD_WORDS).map(lambda words: ["small.py", *words])
COMMANDS = st.one_of(GOOD_COMMANDS, st.builds(list.__add__, GOOD_COMMANDS, commands(WORDS)), commands(WORDS))


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_command_line_gives_trials_or_one_line(count: int, here: Path) -> None:
    """With exit code 0 and nothing on stderr, or 2 and nothing on stdout; nothing is written either way."""

    def check(words: list[str]) -> None:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        err.reconfigure(errors="backslashreplace")  # as Python has it
        before = contents(here)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = study.main(["--dry-run", *words])
        told, complained = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
        assert contents(here) == before
        assert (code, bool(told), bool(complained)) in ((0, True, False), (2, False, True))
        assert not complained or (complained.startswith("error: ") and complained.endswith("\n"))
        assert complained[:-1].isprintable()

    for_all(count, COMMANDS, check)


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_setting_gives_a_study_or_one_line(count: int, here: Path) -> None:
    """What a field was set to is what its text says, when it is written and read again."""
    small = StudyConfig(question="Which?", grid={"latent_size": (2, 5)}, seeds=1)

    def check(texts: list[str]) -> None:
        request = outcome(options.parse, ["small.py", *(word for text in texts for word in ("--set", text))])
        checked = request and outcome(plan.check, StudyFile(small, None, here / "small.py"), request)
        for name, values in (request.fields if checked else {}).items():
            config = TrialConfig(**({"output_activation": "sigmoid"} | {name: values[0]}))
            assert getattr(TrialConfig.from_params(config.to_params()), name) == values[0]
            assert getattr(checked.base, name) == values[0] if len(values) == 1 else checked.grid[name] == values

    good = st.lists(GOOD_SETTINGS, min_size=1, max_size=3, unique_by=lambda text: text.partition("=")[0])
    for_all(count, good | st.builds(list.__add__, good, st.lists(SETTINGS, max_size=1)) | st.lists(SETTINGS, min_size=1), check)


# --- the records

ANY_VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 2, 3, 8, 2**63 - 1, 2**63, -(10**5000), 10**5000, 10**400]),
    st.floats(),
    st.sampled_from(["base", "mse", "bce", "identity", "relu", "cosine", "grid", "tpe", "digits"]),
    ANY_TEXT,
    st.binary(max_size=3),
    st.complex_numbers(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(ANY_TEXT, st.integers(), max_size=2),
)


FIELDS = good_but_for_one({name: allowed(name) for name in RULES}, ANY_VALUE)


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_fields_give_a_configuration_that_survives_text_or_one_line(count: int) -> None:
    """A record that was made is equal to what is read from its text, and from its pickle; its text is ASCII or UTF-8."""

    def check(fields: dict[str, Any]) -> None:
        config = outcome(TrialConfig, **fields)
        if config is not None:
            "".join(config.to_params().values()).encode()
            assert TrialConfig.from_params(config.to_params()) == config
            assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - its own

    for_all(count, FIELDS, check)


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_texts_of_fields_give_a_configuration_or_one_line(count: int) -> None:
    """What is read from any texts survives being written: the store may hold what it likes."""

    def check(params: dict[str, str]) -> None:
        config = outcome(TrialConfig.from_params, params)
        assert config is None or TrialConfig.from_params(config.to_params()) == config

    texts = {name: st.builds(text_of, st.just(name), allowed(name)) for name in RULES} | {"colour": ANY_TEXT}
    for_all(count, good_but_for_one(texts, TEXTS), check)


AXES = st.dictionaries(
    st.sampled_from([*RULES, "latent_sise"]) | ANY_TEXT,
    st.lists(st.integers(1, 9) | ANY_VALUE, max_size=3) | st.builds(range, st.integers(1, 9), st.integers(2, 10**30)) | ANY_VALUE,
    max_size=2,
)
GOOD_AXES = st.dictionaries(st.sampled_from(["latent_size", "depth", "width"]), st.permutations([1, 2, 3]), min_size=1)
STUDIES = good_but_for_one(
    {
        "grid": GOOD_AXES,
        "base": st.just(TrialConfig(epochs=3)),
        "seeds": st.integers(1, 3) | st.just(10**6),
        "sampler": st.sampled_from(["grid", "grid", "grid", "tpe", "magic"]),
        "trials": st.integers(1, 3) | st.none(),
        "objectives": st.lists(st.sampled_from(["val/mse", "test/r2"]), min_size=1, max_size=2),
        "sweep_seed": st.integers(0, 3),
        "round_size": st.integers(1, 3),
        "name": st.text(max_size=9),
    },
    ANY_VALUE | AXES,
).map(lambda fields: {"question": "Which?"} | fields)


@pytest.mark.parametrize("count", EXAMPLES)
def test_any_fields_give_a_study_that_can_be_checked_or_one_line(count: int, here: Path) -> None:
    """A study that was made survives a pickle, and its trials can be listed or are refused."""

    def check(fields: dict[str, Any]) -> None:
        made = outcome(StudyConfig, **fields)
        if made is None:
            return
        assert pickle.loads(pickle.dumps(made)) == dataclasses.replace(made) == made  # noqa: S301 - its own
        checked = outcome(plan.check, StudyFile(made, None, here / "small.py"), options.Request())
        size = made.seeds * math.prod(map(len, made.grid.values()))
        if checked and not 1_000 < size <= plan.MOST_TRIALS:  # those between take long to list
            trials = outcome(plan.grid_trials, checked)
            assert trials is None or len(trials) <= min(size, checked.trials or size)

    for_all(count, STUDIES, check)
