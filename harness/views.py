"""A saved view of a sweep in MLflow's pages: columns, order, scatter plots, parallel coordinates and curves without a click.

MLflow keeps such views as tags of the experiment, in a form that it does not document: whatever it makes of them, nothing else
depends on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from harness.config import HEADLINES

SECTION = "sweep"
MOST_RUNS = 100
"""Of a chart, which is as many as MLflow loads at once."""


def view_tag(identity: str, title: str, params: Sequence[str], best: str) -> tuple[str, str]:
    """The experiment's tag that holds the view of a sweep.

    Args:
        identity: Of the sweep; the view is found by it.
        title: What it is called.
        params: The fields that were varied.
        best: The metric that the table is ordered by.

    Returns:
        Name and value.
    """
    state = json.dumps(view_state(identity, params, best))
    content = {"name": title, "createdAt": int(time.time() * 1000), "state": state}
    return f"mlflow.sharedViewState.{identity}", json.dumps(content)


def view_state(identity: str, params: Sequence[str], best: str) -> dict[str, Any]:
    """What the page shows: the trials of a sweep, ordered by a metric that is the better the lower."""
    metrics = list(dict.fromkeys([best, *HEADLINES]))
    return {
        "selectedColumns": [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{name}`" for name in params)],
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": True,
        "searchFilter": f"tags.`harness.sweep` = '{identity}' and tags.`harness.kind` = 'trial'",
        "compareRunSections": [{"uuid": SECTION, "name": "Sweep", "display": True, "isReordered": True}],
        "compareRunCharts": [
            *(_scatter(f"scatter-{name}", params[0], name) for name in HEADLINES if params),
            _parallel(params, metrics),
            _curve("val/mse"),
        ],
    }


def _chart(kind: str, uuid: str, **own: Any) -> dict[str, Any]:
    common = {"metricSectionId": SECTION, "runsCountToCompare": MOST_RUNS, "deleted": False, "isGenerated": False}
    return {"type": kind, "uuid": uuid, **common, **own}


def _scatter(uuid: str, param: str, metric: str) -> dict[str, Any]:
    return _chart("SCATTER", uuid, xaxis={"key": param, "type": "PARAM"}, yaxis={"key": metric, "type": "METRIC"})


def _parallel(params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return _chart("PARALLEL", "parallel", selectedMetrics=list(metrics), selectedParams=list(params))


def _curve(metric: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        "curve",
        metricKey=metric,
        selectedMetricKeys=[metric],
        xAxisKey="step",
        scaleType="linear",
        lineSmoothness=0,
        selectedXAxisMetricKey="",
        xAxisScaleType="linear",
    )
