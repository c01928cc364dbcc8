"""What a sampler's search says of the fields that it varied: Optuna's own plots, for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


def search_plots(study: optuna.Study, names: Sequence[str]) -> str:
    """History, importances and parallel coordinates of each objective, and the Pareto front of several.

    Args:
        study: With at least one finished trial.
        names: Of its objectives.

    Returns:
        HTML with the script that draws it, which asks nobody for anything; empty where too few trials have finished to plot.
    """
    figures = [figure for index, name in enumerate(names) for figure in _of_objective(study, index, name)]
    if len(names) in (2, 3):
        figures.append(_plots().plot_pareto_front(study, target_names=list(names)))
    if not figures:
        return ""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>" + "".join(_html(figure) for figure in figures)


def _of_objective(study: optuna.Study, index: int, name: str) -> list[Any]:
    plots, target = _plots(), {"target": lambda trial: trial.values[index], "target_name": name}
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(complete) < 2:
        return []
    figures = [plots.plot_optimization_history(study, **target), plots.plot_parallel_coordinate(study, **target)]
    if len({trial.values[index] for trial in complete}) > 1:  # importances are shares of a variance
        figures.insert(1, plots.plot_param_importances(study, **target))
    return figures


def _plots() -> Any:
    from optuna import visualization

    return visualization


def _html(figure: Any) -> str:
    figure.update_layout(template="plotly_white", margin={"l": 60, "r": 30, "t": 60, "b": 50}, height=420)
    return f'<div class="plot">{figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})}</div>'
