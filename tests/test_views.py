"""The saved view of MLflow's pages and the addresses that lead to them."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest

from harness.about import About, Layout, facts_of
from harness.config import HEADLINES
from harness.views import view_state, view_tag

VIEW = "viewStateShareKey=0123456789abcdef&compareRunsMode=CHART&workflowType=machine_learning"
ABOUT = About("s on d", "Why?", "0123456789abcdef", "a" * 32, "7", "sqlite:///mlflow.db")


def test_the_view_is_a_tag_that_mlflow_takes() -> None:
    """JSON in JSON, of less than 20,000 characters, under a name with the sweep's identity."""
    name, value = view_tag("0123456789abcdef", "s on d", ["latent_size", "architecture"], "val/mse")
    assert name == "mlflow.sharedViewState.0123456789abcdef"
    assert len(value) < 20_000
    content = json.loads(value)
    assert content["name"] == "s on d"
    assert json.loads(content["state"]) == view_state("0123456789abcdef", ["latent_size", "architecture"], "val/mse")


def test_the_view_shows_the_headlines_of_the_sweeps_trials_and_every_kind_of_chart() -> None:
    """Ordered by the validation loss; loss and correlation against latent size."""
    state = view_state("0123456789abcdef", ["latent_size", "architecture"], "val/mse")
    assert set(state["selectedColumns"]) >= {f"metrics.`{name}`" for name in HEADLINES} | {"params.`latent_size`"}
    assert "'0123456789abcdef'" in state["searchFilter"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/mse`", True)
    charts = state["compareRunCharts"]
    assert {chart["type"] for chart in charts} == {"SCATTER", "PARALLEL", "LINE"}
    scatters = {chart["yaxis"]["key"]: chart["xaxis"]["key"] for chart in charts if chart["type"] == "SCATTER"}
    assert scatters == dict.fromkeys(HEADLINES, "latent_size")
    assert len({chart["uuid"] for chart in charts}) == len(charts)


@pytest.mark.parametrize(
    ("uri", "ui", "command"),
    [
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000", "mlflow ui"),
        ("sqlite:////tmp/a.db", "http://127.0.0.1:5000", "mlflow ui --backend-store-uri sqlite:////tmp/a.db"),
        ("https://mlflow.example/", "https://mlflow.example", ""),
    ],
)
def test_addresses_lead_to_the_servers_pages_or_to_those_of_mlflow_ui(uri: str, ui: str, command: str) -> None:
    """A run, the saved view, runs side by side."""
    about = About("s on d", "Why?", "0123456789abcdef", "a" * 32, "7", uri)
    assert about.ui_command == command
    assert about.run_address("b" * 32) == f"{ui}/#/experiments/7/runs/{'b' * 32}"
    assert about.view_address == f"{ui}/#/experiments/7/runs?{VIEW}"
    assert unquote(about.compare_address(["x", "y"])) == f'{ui}/#/compare-runs?runs=["x", "y"]&experiments=["7"]'


def test_what_a_sweep_is_comes_back_from_its_tag() -> None:
    """All of it, and the defaults from a run of an earlier version."""
    layout = Layout(("latent_size",), ("val/mse", "transfer_accuracy"), "tpe", 40, "python -m harness.study x")
    assert Layout.from_tag(layout.to_tag()) == layout
    assert Layout.from_tag("") == Layout()


def test_the_facts_of_a_run_are_those_that_it_has() -> None:
    """A commit with changes is called so; what is missing is left out."""
    tags = {"harness.dataset": "digits", "mlflow.source.git.commit": "abc", "harness.git_dirty": "true"}
    assert facts_of(tags) == {"dataset": "digits", "commit": "abc with changes"}
    assert facts_of({"harness.versions": '{"torch": "2.15"}'}) == {"versions": "torch 2.15"}
