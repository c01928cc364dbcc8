"""What a report says of a sweep itself, known from its parent run alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from shlex import quote as quoted
from typing import Any
from urllib.parse import quote

LOCAL_UI = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` is, as it starts by itself."""

TAG = "harness.about"
"""The parent run's tag that holds a ``Layout``."""


@dataclass(frozen=True)
class Layout:
    """What the runs of trials do not say of their sweep.

    Attributes:
        axes: The fields that were varied by a grid.
        objectives: Metrics that a sampler optimised, or a grid is ranked by.
        sampler: Its name.
        total: Trials when all are done.
        command: What was typed.
    """

    axes: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ("val/mse",)
    sampler: str = "grid"
    total: int = 0
    command: str = ""

    def to_tag(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_tag(cls, text: str) -> Layout:
        """What ``to_tag`` wrote; the defaults where there is nothing."""
        content: dict[str, Any] = json.loads(text or "{}")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        return cls(**values)


@dataclass(frozen=True)
class About:
    """A sweep, for the head and the foot of its report.

    Attributes:
        title: Study and dataset.
        question: What the study answers.
        identity: Of the sweep.
        run_id: Of the parent run.
        experiment_id: Of the experiment.
        uri: Of the store, without a password.
        layout: What the runs of trials do not say.
        facts: More lines by name: dataset, versions, device.
        has_ended: Whether all trials are done, as far as they will be.
    """

    title: str
    question: str
    identity: str
    run_id: str
    experiment_id: str
    uri: str
    layout: Layout = Layout()
    facts: Mapping[str, str] = field(default_factory=dict)
    has_ended: bool = True

    @property
    def ui(self) -> str:
        """The address of MLflow's pages: the server's, or where ``mlflow ui`` is when it is started beside the store."""
        return self.uri.rstrip("/") if self.uri.startswith(("http://", "https://")) else LOCAL_UI

    def run_address(self, run_id: str) -> str:
        """A run's page."""
        return f"{self.ui}/#/experiments/{self.experiment_id}/runs/{run_id}"

    @property
    def page_address(self) -> str:
        """The report among the files of the sweep's run."""
        return f"{self.run_address(self.run_id)}/artifacts/report.html"

    @property
    def view_address(self) -> str:
        """The saved view of the sweep's trials, with charts."""
        query = f"viewStateShareKey={self.identity}&compareRunsMode=CHART&workflowType=machine_learning"
        return f"{self.ui}/#/experiments/{self.experiment_id}/runs?{query}"

    def compare_address(self, run_ids: Sequence[str]) -> str:
        """Runs side by side."""
        runs, experiments = (quote(json.dumps(ids)) for ids in (list(run_ids), [self.experiment_id]))
        return f"{self.ui}/#/compare-runs?runs={runs}&experiments={experiments}"

    @property
    def ui_command(self) -> str:
        """What to type to see the runs; empty where a server shows them."""
        if self.uri.startswith(("http://", "https://")):
            return ""
        return "mlflow ui" if self.uri == "sqlite:///mlflow.db" else f"mlflow ui --backend-store-uri {quoted(self.uri)}"


def facts_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The lines that a run's tags give: dataset, machine, versions, commit."""
    versions = json.loads(tags.get("harness.versions", "{}"))
    dirty = " with changes" if tags.get("harness.git_dirty") == "true" else ""
    facts = {
        "dataset": tags.get("harness.dataset", ""),
        "its SHA-256": tags.get("harness.data_fingerprint", ""),
        "device": " ".join(filter(None, (tags.get("harness.device", ""), tags.get("harness.device_name", "")))),
        "host": tags.get("harness.host", ""),
        "commit": tags.get("mlflow.source.git.commit", "") and f"{tags['mlflow.source.git.commit']}{dirty}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    return {name: value for name, value in facts.items() if value}
