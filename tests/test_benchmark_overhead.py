"""Where a sweep's time goes that is not computing."""

from __future__ import annotations

import pytest

from benchmarks import overhead
from harness import trial


def test_what_the_workers_did_not_compute_is_told_by_when_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, one of which ends sooner: 3 s of each before the first task, 5 s of waiting, 2 s of each after the last."""
    monkeypatch.setattr(overhead, "SPANS", [(13.0, 20.0), (13.0, 18.0), (21.0, 22.0)])
    rest = overhead.not_computing(started=10.0, ended=24.0, workers=2)
    assert rest == {"start": 6.0, "between": 5.0, "end": 4.0}
    assert sum(rest.values()) + 7 + 5 + 1 == 2 * 14.0


@pytest.mark.parametrize(("task", "name"), [("run_segment", "training"), ("evaluate_group", "evaluation")])
def test_a_task_in_a_worker_has_its_result_its_seconds_and_its_span(
    task: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock that all processes share."""
    monkeypatch.setattr(trial, task, max)
    result, spent, (begun, ended) = overhead._timed(max, 1, 2)
    assert result == 2
    assert spent[name] == ended - begun >= 0
    assert spent["files"] == 0


def test_what_workers_do_beside_is_not_computing() -> None:
    """Such as a chart of the report: it has a result and takes none of the seconds that count."""
    result, spent, _ = overhead._timed(max, 1, 2)
    assert (result, spent) == (2, {})
