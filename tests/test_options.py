"""The command line: words in, a checked request or one clear line out."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import StudyConfig, TrialConfig, field_rules
from harness.options import DEVICES, KERNELS, PRECISIONS, TRAINERS, Request, apply, parse
from harness.rules import UserError

STUDY = StudyConfig(
    name="mine",
    question="Which?",
    base=TrialConfig(epochs=3),
    grid={"architecture": ("base", "deep"), "latent_size": (2, 5)},
    seeds=2,
)
SEARCH = StudyConfig(name="search", question="Which?", sampler="tpe", trials=10)

VALUES = {
    "--seeds": ("7", "seeds", 7),
    "--trials": ("4", "trials", 4),
    "--data-root": ("some/folder", "data_root", "some/folder"),
    "--workers": ("3", "workers", 3),
    "--group-size": ("5", "group_size", 5),
    "--device": ("cpu", "device", "cpu"),
    "--trainer": ("plain", "trainer", "plain"),
    "--precision": ("bfloat16", "precision", "bfloat16"),
    "--kernels": ("torch", "kernels", "torch"),
    "--executor": ("inline", "executor", "inline"),
    "--ray-address": ("ray://head:10001", "ray_address", "ray://head:10001"),
    "--resources": ("CPU=2,GPU=0.5", "resources", {"CPU": 2.0, "GPU": 0.5}),
    "--tracking-uri": ("sqlite:///a.db", "tracking_uri", "sqlite:///a.db"),
    "--epochs": ("9", "fields", {"epochs": (9,)}),
    "--batch-size": ("16", "fields", {"batch_size": (16,)}),
    "--dataset": ("folder:a,b", "fields", {"dataset": ("folder:a,b",)}),
    "--train-size": ("all", "fields", {"train_size": (None,)}),
    "--image-size": ("16", "fields", {"image_size": (16,)}),
    "--set": ("latent_size=2,10", "fields", {"latent_size": (2, 10)}),
}
FLAGS = {"--fresh": "fresh", "--dry-run": "dry_run", "--json": "json", "--smoke": "smoke", "--list": "list_studies"}


def help_text() -> str:
    """What ``--help`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    return out.getvalue()


def test_the_name_of_a_study_is_all_that_is_needed() -> None:
    """Everything else has a default."""
    assert parse(["mine"]) == Request(study="mine")


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("form", ["two words", "equals sign", "before the study"])
def test_an_option_with_a_value_is_read(option: str, form: str) -> None:
    """Wherever it stands, and with a space or an equals sign."""
    text, name, value = VALUES[option]
    words = {
        "two words": ["mine", option, text],
        "equals sign": ["mine", f"{option}={text}"],
        "before the study": [option, text, "mine"],
    }
    assert parse(words[form]) == Request(**{"study": "mine", name: value})


@pytest.mark.parametrize("option", FLAGS)
def test_a_flag_is_read(option: str) -> None:
    """A flag turns one thing on."""
    assert parse(["mine", option]) == Request(**{"study": "mine", FLAGS[option]: True})


@pytest.mark.parametrize("option", ["--workers", "--group-size"])
def test_auto_leaves_the_number_to_the_harness(option: str) -> None:
    """The word auto is the same as leaving the option out."""
    assert parse(["mine", option, "auto"]) == parse(["mine"])


@pytest.mark.parametrize(
    ("name", "word"),
    [
        (name, word)
        for name, words in (("device", DEVICES), ("trainer", TRAINERS), ("precision", PRECISIONS), ("kernels", KERNELS))
        for word in words
    ],
)
def test_each_word_of_a_choice_is_allowed(name: str, word: str) -> None:
    """What DEVICES, TRAINERS, PRECISIONS and KERNELS list can be asked for."""
    assert getattr(parse(["mine", f"--{name}", word]), name) == word


def test_every_option_has_a_line_of_help() -> None:
    """Help shows each option with a text of its own, and the exit codes."""
    text = help_text()
    for option in [*VALUES, *FLAGS]:
        assert re.search(rf"^ +{option}\b.*\n? +\w", text, re.MULTILINE), option
    assert all(code in text for code in ("Exit code", "130"))


def test_list_needs_no_study() -> None:
    """The list of studies is had without naming one."""
    assert parse(["--list"]).list_studies


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["latent_size=3"], {"latent_size": (3,)}),
        (["latent-size=3"], {"latent_size": (3,)}),
        (["latent_size= 3 , 4"], {"latent_size": (3, 4)}),
        (["architecture=base,deep", "depth=default"], {"architecture": ("base", "deep"), "depth": (None,)}),
        (["batch_norm=true,false"], {"batch_norm": (True, False)}),
        (["learning_rate=1e-3"], {"learning_rate": (0.001,)}),
        (["dataset=npz:a=b,c.npz"], {"dataset": ("npz:a=b,c.npz",)}),
    ],
)
def test_set_reads_one_value_or_several(words: list[str], fields: dict[str, tuple[Any, ...]]) -> None:
    """Values have commas between them; a path keeps its own."""
    assert parse(["mine", *(word for setting in words for word in ("--set", setting))]).fields == fields


@pytest.mark.parametrize("name", field_rules())
def test_every_field_can_be_set(name: str) -> None:
    """A field's own default, as text, is a value for --set."""
    default = TrialConfig()
    assert parse(["mine", "--set", f"{name}={default.to_params()[name]}"]).fields == {name: (getattr(default, name),)}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no study named", "latent_sweep", "--list"]),
        (["mine", "other"], ["other", "--help"]),
        (["mine", "--epoch", "3"], ["unknown option '--epoch'", "did you mean '--epochs'?"]),
        (["mine", "--sedes=3"], ["unknown option '--sedes'", "did you mean '--seeds'?"]),
        (["mine", "--epochs"], ["--epochs"]),
        (["mine", "--fresh=yes"], ["--fresh"]),
        (["mine", "--epochs", "many"], ["epochs", "'many'", "a whole number of at least 1"]),
        (["mine", "--epochs", "0"], ["epochs is 0", "at least 1"]),
        (["mine", "--batch-size", "1"], ["batch_size is 1", "at least 2"]),
        (["mine", "--image-size", "65"], ["image_size is 65", "from 8 to 64"]),
        (["mine", "--train-size", "none"], ["train_size", "'none'", "'all'"]),
        (["mine", "--seeds", "0"], ["--seeds is 0", "at least 1"]),
        (["mine", "--trials", "-3"], ["--trials", "-3"]),
        (["mine", "--workers", "many"], ["--workers", "'many'", "'auto'"]),
        (["mine", "--group-size", "0"], ["--group-size is 0", "'auto'"]),
        (["mine", "--device", "cuba"], ["--device", "'cuba'", "did you mean 'cuda'?"]),
        (["mine", "--trainer", "plane"], ["--trainer", "'plane'", "did you mean 'plain'?"]),
        (["mine", "--precision", "float16"], ["--precision", "'float16'", "float32", "bfloat16"]),
        (["mine", "--kernels", "troch"], ["--kernels", "'troch'", "auto", "torch"]),
        (["mine", "--set", "latent_sise=3"], ["unknown field 'latent_sise'", "did you mean 'latent_size'?"]),
        (["mine", "--set", "loss=mce"], ["unknown loss 'mce'", "did you mean 'mse'?"]),
        (["mine", "--set", "latent_size=2,x"], ["latent_size", "'x'"]),
        (["mine", "--set", "latent_size=2,2"], ["latent_size=2,2", "twice"]),
        (["mine", "--set", "latent_size=2,"], ["latent_size", "''"]),
        (["mine", "--set", "latent_size"], ["--set 'latent_size'", "FIELD=VALUE"]),
        (["mine", "--set", "latent_size="], ["--set 'latent_size='", "FIELD=VALUE"]),
        (["mine", "--set", "=3"], ["unknown field ''"]),
        (["mine", "--set", "epochs=3", "--set", "epochs=4"], ["epochs", "twice"]),
        (["mine", "--set", "epochs=3", "--epochs", "4"], ["epochs", "twice"]),
        (["mine", "--epochs", "3", "--epochs", "4"], ["epochs", "twice"]),
    ],
)
def test_a_wrong_command_line_is_answered_with_what_is_allowed(words: list[str], parts: list[str]) -> None:
    """The error names the word and what could stand there, the nearest first."""
    with pytest.raises(UserError) as caught:
        parse(words)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


WORDS = st.one_of(
    st.sampled_from([*VALUES, *FLAGS, "--help", "-h", "--", "-", "--=", "mine", "auto", "1", "-1", "base"]),
    st.sampled_from([f"{option}={text}" for option, (text, _, _) in VALUES.items()]),
    st.builds("{}={}".format, st.sampled_from([*field_rules(), "--set", "x"]), st.text(max_size=8)),
    st.text(max_size=8),
)


@settings(max_examples=200)
@given(st.lists(WORDS, max_size=7))
def test_any_words_give_a_request_or_an_error_for_the_user(words: list[str]) -> None:
    """Nothing but UserError comes out, save the exit of a command line that asks for help."""
    asks_for_help = any(word.startswith(("--help", "-h")) for word in words)
    allowed = (UserError, SystemExit) if asks_for_help else (UserError,)
    with contextlib.suppress(*allowed), contextlib.redirect_stdout(io.StringIO()):
        request = parse(words)
        assert request.study or request.list_studies


def test_several_values_replace_an_axis_in_its_place() -> None:
    """The order of the axes stays, and with it that of the trials."""
    study = apply(parse(["mine", "--set", "architecture=heavy,linear"]), STUDY)
    assert list(study.grid.items()) == [("architecture", ("heavy", "linear")), ("latent_size", (2, 5))]


def test_several_values_of_another_field_add_an_axis() -> None:
    """A new axis comes last."""
    study = apply(parse(["mine", "--set", "width=4,8"]), STUDY)
    assert list(study.grid) == ["architecture", "latent_size", "width"]
    assert study.grid["width"] == (4, 8)


def test_one_value_takes_a_field_out_of_the_grid() -> None:
    """An axis of one value is a field."""
    study = apply(parse(["mine", "--set", "architecture=heavy"]), STUDY)
    assert (study.grid, study.base.architecture) == ({"latent_size": (2, 5)}, "heavy")


def test_a_grid_whose_axes_are_all_set_has_one_point() -> None:
    """What is left to vary is one latent size."""
    study = apply(parse(["mine", "--set", "architecture=heavy", "--set", "latent_size=7"]), STUDY)
    assert (study.grid, study.base.latent_size) == ({"latent_size": (7,)}, 7)


def test_fields_seeds_and_trials_go_into_the_study() -> None:
    """What is not named stays as the study file says."""
    study = apply(parse(["mine", "--epochs", "9", "--seeds", "5", "--trials", "4"]), STUDY)
    assert (study.base.epochs, study.seeds, study.trials, study.grid) == (9, 5, 4, STUDY.grid)
    assert apply(parse(["mine"]), STUDY) == STUDY


def test_two_fields_that_go_together_can_be_set_together() -> None:
    """The fields are checked with one another when all are set, not one by one."""
    study = apply(parse(["mine", "--set", "output_activation=identity"]), STUDY)
    study = apply(parse(["mine", "--set", "loss=bce", "--set", "output_activation=sigmoid"]), study)
    assert (study.base.loss, study.base.output_activation) == ("bce", "sigmoid")


@pytest.mark.parametrize(
    ("study", "words", "parts"),
    [
        (STUDY, ["--set", "seed=1,2"], ["seed", "--seeds N"]),
        (STUDY, ["--image-size", "8,16"], ["image_size", "one command for each"]),
        (STUDY, ["--set", "split_seed=1,2"], ["split_seed", "one command for each"]),
        (STUDY, ["--set", "kernel_size=4"], ["kernel_size is 4", "odd"]),
        (SEARCH, ["--seeds", "3"], ["--seeds", "search", "'tpe'", "--trials N"]),
        (SEARCH, ["--set", "latent_size=2,5"], ["latent_size", "search", "'tpe'", "one value"]),
    ],
)
def test_a_study_refuses_what_it_cannot_take(study: StudyConfig, words: list[str], parts: list[str]) -> None:
    """The error names the field and what to write instead."""
    with pytest.raises(UserError) as caught:
        apply(parse([study.name, *words]), study)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_journal_is_replayed_without_a_study() -> None:
    """``--replay`` needs no study; the limit of an outage is in minutes, and half an hour where nothing is said."""
    request = parse(["--replay", "mlruns/.journal/x"])
    assert (request.study, request.replay, request.outage_limit) == ("", "mlruns/.journal/x", 30.0)
    assert parse(["latent_sweep", "--outage-limit", "0.5"]).outage_limit == 0.5
    assert parse(["latent_sweep"]).replay == ""
