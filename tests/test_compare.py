"""``python -m harness.compare`` as a user types it, on a store with real sweeps."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from scipy import stats

from harness import compare, compare_options
from harness.formats import FORMATS
from harness.rules import UserError
from tests.stored import Stored, many_trials, one_line
from tests.support import ROOT

LOSS = "reconstruction_loss"


@pytest.fixture(autouse=True)
def _store(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store with real sweeps is the one of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stored.uri)


def run(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    """Runs the command; gives stdout and stderr."""
    found = compare.main(words)
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out, captured.err


@pytest.fixture(scope="module")
def runs(stored: Stored) -> pd.DataFrame:
    """The grid's trials as MLflow itself gives them."""
    client = MlflowClient(stored.uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{stored.grid_run}'")
    return pd.DataFrame([{"run_id": run.info.run_id, **run.data.params, **run.data.metrics} for run in found]).astype(
        {"latent_size": int, "seed": int}
    )


def test_json_agrees_with_the_runs(runs: pd.DataFrame, stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mean, interval and difference, recomputed by pandas and SciPy from what MLflow has."""
    out, _ = run(["tiny", "--group-by", "architecture", "--metric", f"{LOSS},val/mse", "--json"], capsys)
    content = json.loads(out)
    assert [table["metric"] for table in content["tables"]] == [LOSS, "val/mse"]
    assert content["sweeps"][0] | {"trials": 12, "sweep": stored.grid, "run_id": stored.grid_run} == content["sweeps"][0]
    for table in content["tables"]:
        means = runs.groupby(["architecture", "seed"])[table["metric"]].mean().unstack()
        base, linear = table["rows"]
        low, high = stats.t.interval(0.95, 2, means.loc["linear"].mean(), stats.sem(means.loc["linear"]))
        assert [linear[name] for name in ("mean", "low", "high")] == pytest.approx([means.loc["linear"].mean(), low, high])
        assert linear["difference"] == pytest.approx(linear["mean"] - base["mean"])
        assert linear["p_holm"] == pytest.approx(stats.ttest_rel(means.loc["linear"], means.loc["base"]).pvalue)
        assert linear["compared_with"] == "architecture = base"
        assert (linear["trials"], linear["seeds"], linear["pairs"]) == (6, 3, 3)


def test_csv_has_the_same_numbers(runs: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each metric, group and sweep, to the last digit; the headline metrics where none is named."""
    out, _ = run(["tiny", "--csv"], capsys)
    frame = pd.read_csv(io.StringIO(out))
    assert frame["metric"].value_counts().to_dict() == {LOSS: 4, "max_latent_correlation": 4, "transfer_accuracy": 4}
    expected = runs.groupby(["architecture", "latent_size"])[LOSS].mean()
    found = frame[frame["metric"] == LOSS].set_index(["architecture", "latent_size"])["mean"]
    assert found.to_dict() == pytest.approx(expected.to_dict())


def test_the_terminal_shows_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """One a metric with its direction, the baseline, how the numbers are to be read, and which other sweeps there are."""
    out, err = run(["tiny"], capsys)
    assert err == ""
    assert re.search(r"^tiny on digits, sweep [0-9a-f]{16}: 12 trials, 3 seeds \(run [0-9a-f]{32}\)$", out, re.MULTILINE)
    assert f"{LOSS} (squared error per pixel, lower is better)" in out
    assert "transfer_accuracy (share of test images, higher is better)" in out
    assert (
        len(re.findall(r"linear +3 +3 +[\d.]+ ± [\d.]+ +[+-][\d.]+ ± [\d.]+ +[\d.<]+ *[\d.]* +(better|worse|unresolved)", out))
        == 3
    )
    assert out.count("baseline") == 3
    assert "corrected for the 3 comparisons of a table (Holm)" in " ".join(out.split())
    assert "tiny has other sweeps, older ones" in out


def test_two_sweeps_are_shown_with_what_differs(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """The second against the first; the epochs, the seeds and the architectures are other ones, the images are not."""
    out, _ = run([stored.longer, stored.grid, "--metric", LOSS], capsys)
    assert re.search(r"linear +2 +2/3 +[\d.]+ ± [\d.]+ +[\d.]+ ± [\d.]+ +[+-]", out)
    assert re.search(r"epochs +3 +2 *$", out, re.MULTILINE)
    assert re.search(r"architecture +linear +base, linear *$", out, re.MULTILINE)
    assert re.search(r"seed +0, 1 +0, 1, 2 *$", out, re.MULTILINE)
    assert "SHA-256" not in out
    assert "commit" not in out


def test_differences_in_the_makings_are_found(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images, commit, version and device, where one sweep has others."""
    copy = stored.copied(tmp_path)
    change = "UPDATE tags SET value = ? WHERE key = ? AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
    for tag, value in {
        "harness.versions": '{"torch": "1.0"}',
        "mlflow.source.git.commit": "c" * 40,
        "harness.device_name": "a slow one",
        "harness.kernels": "others",
        "harness.data_fingerprint": "d" * 64,
    }.items():
        copy.change(change, value, tag, "harness.sweep", stored.longer)
    out, _ = run([stored.longer, stored.grid, "--json", "--tracking-uri", copy.uri], capsys)
    differ = json.loads(out)["differ"]
    assert differ["images (SHA-256)"][0] == "d" * 12
    assert differ["commit"][0] == "c" * 12
    assert differ["device's model"][0] == "a slow one"
    assert differ["kernels"][0] == "others"
    assert differ["version of torch"][0] == "1.0"
    assert differ["epochs"] == ["3", "2"]


def test_markdown_is_tables(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of every table has as many cells as its head."""
    out, _ = run([stored.longer, stored.grid, "--markdown"], capsys)
    tables = [block.splitlines() for block in out.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables[:3]] == [6, 6, 6]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        assert set(table[1]) <= set("|:- ")
    assert "## reconstruction_loss (squared error per pixel, lower is better)" in out


class Page(HTMLParser):
    """Counts rows and drawings, and keeps what leads anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the tag."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_html_is_one_file_with_a_drawing_a_row(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written whole to a file; it has no script and asks for nothing from elsewhere."""
    path = tmp_path / "page.html"
    out, err = run([stored.longer, stored.grid, "--html", "--output", str(path)], capsys)
    assert (out, err) == ("", f"{path} is written\n")
    page = Page()
    page.feed(path.read_text())
    assert page.tags.count("svg") == 3 * 4
    assert page.tags.count("circle") == 3 * (1 + 4)
    assert page.addresses == []
    assert "script" not in page.tags
    assert "prefers-color-scheme: dark" in path.read_text()


def test_names_cannot_break_a_page(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of studies and datasets may be anybody's."""
    copy = stored.copied(tmp_path)
    copy.change("UPDATE experiments SET name = ? WHERE name = 'tiny'", "<script>a|b`")
    out, _ = run(["<script>a|b`", "--html", "--tracking-uri", copy.uri], capsys)
    assert "<script>" not in out
    out, _ = run(["<script>a|b`", "--markdown", "--tracking-uri", copy.uri], capsys)
    assert "\\<script\\>a\\|b\\`" in out


def test_sweeps_are_listed(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is needed to name them."""
    out, _ = run(["--list", "--json"], capsys)
    assert [(each["study"], each["trials"]) for each in json.loads(out)] == [
        ("failing", "1"),
        ("tuned", "8"),
        ("tiny", "12"),
        ("tiny", "2"),
    ]
    out, _ = run(["--list"], capsys)
    assert re.search(rf"{stored.grid} +tiny +digits +12 +finished +\d{{4}}-\d\d-\d\d \d\d:\d\d +{stored.grid_run}", out)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no study named", "--list"]),
        (["tinny"], ["did you mean 'tiny'?"]),
        (["tiny", "--metric", "val/mae"], ["unknown metric 'val/mae'", "did you mean 'val/mse'?"]),
        (["tiny", "--group-by", "latent_sise"], ["unknown field to group by", "did you mean 'latent_size'?"]),
        (["tiny", "--where", "latent_sise = 2"], ["unknown column 'latent_sise'", "did you mean 'latent_size'?"]),
        (["tiny", "--where", "latent_size = 9"], ["selects none of 12 trials: latent_size is 2, 3"]),
        (["tiny", "--baseline", "architecture = 'deep'"], ["--baseline", "selects none"]),
        (["tiny", "tuned", "--baseline", "latent_size = 2"], ["--baseline is for the groups of one sweep"]),
        (["tiny", "--markdwon"], ["unknown option '--markdwon'", "did you mean '--markdown'?"]),
        (["tiny", "--html", "--csv"], ["--html and --csv are two formats"]),
        (["tiny", "--output", "x.html"], ["--output 'x.html' has no format"]),
        (["tiny", "--csv", "--output", "/"], ["--output / cannot be written"]),
        (
            ["tiny", "--csv", "--output", "no/such/folder/x.csv"],
            ["--output no/such/folder/x.csv cannot be written", "No such file"],
        ),
        (["tiny", "--tracking-uri", "sqlite:///gone.db"], ["there is no tracking store sqlite:///gone.db"]),
        (["tiny", "--optuna-storage", "nonsense://x"], ["--optuna-storage nonsense://x cannot be used"]),
        (["tiny", "--optuna-storage", "sqlite:///optuna.db", "--metric", "floor/pca_mse"], ["unknown objective 'floor/pca_mse'"]),
        (["tiny", "ti\0ny"], ["is no text"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the nearest name; nothing is written."""
    out, err = run(words, capsys, code=2)
    assert out == ""
    assert [part for part in parts if part not in one_line(err)] == []
    assert list(Path.cwd().iterdir()) == []


def test_one_sweep_named_twice_is_refused(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    """By two of its names."""
    _, err = run(["tiny", stored.grid], capsys, code=2)
    assert "which is named already" in one_line(err)


def test_formats_are_those_that_the_command_line_knows() -> None:
    """The names are kept apart from what writes them, which is slow to load."""
    assert tuple(FORMATS) == compare_options.FORMATS


@pytest.mark.parametrize("module", ["compare", "reproduce"])
def test_help_loads_nothing_that_is_slow(module: str) -> None:
    """It answers within a third of a second of the processor's time, and without torch, MLflow, Optuna or pandas."""
    code = (
        f"import sys, time, contextlib; from harness import {module}\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    {module}.main(['--help'])\n"
        "slow = [name for name in ('torch', 'mlflow', 'optuna', 'pandas', 'rich', 'numpy') if name in sys.modules]\n"
        "print(slow, time.process_time() < 0.3)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert ran.stdout.startswith(f"usage: python -m harness.{module}")
    assert ran.stdout.endswith("[] True\n")


def test_a_sweep_is_a_data_frame(runs: pd.DataFrame, stored: Stored) -> None:
    """A row a trial with configuration and metrics; several sweeps and a selection too."""
    frame = compare.load("tiny", tracking_uri=stored.uri)
    assert frame["trial"].tolist() == list(range(12))
    assert set(frame["sweep"]) == {stored.grid}
    expected = runs.set_index("run_id")
    for _, row in frame.iterrows():
        assert row[LOSS] == expected.loc[row["run_id"], LOSS]
        assert row["architecture"] == expected.loc[row["run_id"], "architecture"]
    both = compare.load(stored.longer, stored.grid, where="latent_size = 2 and seed < 2")
    assert both.groupby("sweep").size().to_dict() == {stored.longer: 2, stored.grid: 4}
    assert compare.load("failing")["status"].tolist() == ["finished", "failed"]
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        compare.load("tinny")


def test_a_thousand_runs_take_seconds(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the store to the tables, with everything loaded already: far below ten seconds."""
    copy = many_trials(stored, tmp_path, 1000)
    started = time.process_time()
    out, _ = run(["tiny", "--csv", "--tracking-uri", copy.uri], capsys)
    assert time.process_time() - started < 8
    rows = [row for row in csv.DictReader(out.splitlines()) if row["metric"] == LOSS]
    assert sum(int(row["trials"]) for row in rows) == 1000


def test_a_long_table_shows_the_best(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the terminal; the files have all."""
    copy = many_trials(stored, tmp_path, 400)
    out, _ = run(["tiny", "--group-by", "seed,latent_size", "--metric", LOSS, "--tracking-uri", copy.uri], capsys)
    assert re.search(r"the best 40 of 72, --csv has all", " ".join(out.split()))
    assert len(re.findall(r"^ *\d+ +[23] +1 ", out, re.MULTILINE)) in (40, 41)


def test_importing_the_library_leaves_mlflow_as_it_was(stored: Stored) -> None:
    """The address that a user has set stays."""
    before: Any = mlflow.get_tracking_uri()
    compare.load("tiny")
    assert mlflow.get_tracking_uri() == before
