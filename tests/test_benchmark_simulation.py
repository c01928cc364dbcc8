"""The simulated cluster: its times are those that can be reckoned by hand, and what is lost is done again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.simulation import Costs, simulate

NOTHING = Costs(
    epoch=0.0,
    evaluation=0.0,
    hand_over=0.0,
    start=0.0,
    begin=0.0,
    log=0.0,
    finish=0.0,
    notice=0.0,
    repair=1.0,
    node_life=0.0,
    deaths=0.0,
)
WORK = 0.6 + 0.8 + 1.6
"""Of one trial of each architecture, which is every third one's."""


def test_one_core_does_all_work_one_after_the_other() -> None:
    """30 epochs and an evaluation a trial, weighed by architecture; the coordinator takes no time."""
    outcome = simulate(21, 1, 1, replace(NOTHING, epoch=2.0, evaluation=5.0))
    assert outcome.seconds == pytest.approx(7 * WORK * (30 * 2.0 + 5.0))
    assert (outcome.finished, outcome.busy, outcome.coordinator) == (21, pytest.approx(1.0), 0.0)


def test_a_coordinator_that_is_the_limit_takes_its_writes_one_after_the_other() -> None:
    """However many nodes there are: three segments, a begin and an end of each trial."""
    outcome = simulate(42, 50, 4, replace(NOTHING, begin=1.0, log=2.0, finish=3.0))
    assert outcome.seconds == pytest.approx(42 * (1.0 + 3 * 2.0 + 3.0))
    assert outcome.coordinator == pytest.approx(1.0)


def test_more_nodes_are_sooner_done_but_never_sooner_than_their_work() -> None:
    """Between the work divided by the cores and twice that, where each core has many tasks."""
    costs = replace(NOTHING, epoch=1.0, evaluation=10.0)
    work = 420 / 3 * WORK * 40.0
    for nodes in (1, 2, 4):
        seconds = simulate(420, nodes, 2, costs).seconds
        assert work / (2 * nodes) <= seconds < 2 * work / (2 * nodes)


def test_lost_nodes_cost_time_and_no_trial() -> None:
    """Each of many losses is made good."""
    costs = replace(NOTHING, epoch=1.0, evaluation=10.0, notice=5.0, repair=60.0, node_life=500.0)
    calm, stormy = simulate(420, 4, 2, replace(costs, node_life=0.0)), simulate(420, 4, 2, costs)
    assert stormy.finished == calm.finished == 420
    assert stormy.node_losses > 5
    assert stormy.lost > 0
    assert calm.seconds < stormy.seconds < 2 * calm.seconds


def test_dead_workers_cost_only_trials_of_which_they_die_twice() -> None:
    """One in fifty tasks: that it is the same task again is rare."""
    outcome = simulate(420, 4, 2, replace(NOTHING, epoch=1.0, evaluation=10.0, deaths=0.02))
    assert outcome.worker_deaths > 5
    assert 417 <= outcome.finished <= 420
