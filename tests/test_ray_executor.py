"""Tasks on a Ray cluster: what fits on a node, what is said where it is not there, and what a lost node costs."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.services import free_port, ray_cluster
from harness import datasets, provenance, ray_executor
from harness.executors import EXECUTORS
from harness.options import Request
from harness.plan import SweepPlan, check, make_plan, worker_device
from harness.ray_executor import RayExecutor, check_cluster, task_needs, tasks_that_fit
from harness.rounds import Means
from harness.rules import UserError
from harness.sweep import run_sweep
from harness.tracker import NullTracker
from harness.workers import HUGE_PAGES, NodeLostError, Wanted, WorkerDiedError
from tests.support import ROOT, TINY, make_study_file
from tests.sweeping import QuietDisplay, numbers, run

SECONDS = 120


@pytest.mark.parametrize(
    ("node", "needs", "count"),
    [
        ({"CPU": 4.0}, {"CPU": 1.0}, 4),
        ({"CPU": 4.0}, {"CPU": 1.5}, 2),
        ({"CPU": 1.0}, {"CPU": 0.1}, 10),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, 2),
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.4}, 4),
        ({"CPU": 8.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 2.0}, 2),
        ({"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}, 0),
        ({"CPU": 8.0, "big": 1.0}, {"CPU": 1.0, "big": 1.0}, 1),
        ({}, {"CPU": 1.0}, 0),
    ],
)
def test_a_node_has_room_for_what_it_has_least_of(node: Mapping[str, float], needs: Mapping[str, float], count: int) -> None:
    """Two tasks of 0.4 GPU share one GPU; no task has parts of two."""
    assert tasks_that_fit(node, needs) == count


def test_a_task_takes_a_core_and_where_it_computes_on_one_a_gpu() -> None:
    """What the user says replaces that, also with nothing."""
    assert task_needs(Wanted()) == {"CPU": 1.0}
    assert task_needs(Wanted(device="cuda")) == {"CPU": 1.0, "GPU": 1.0}
    assert task_needs(Wanted(device="cuda", resources={"GPU": 0.5, "CPU": 0.0, "big": 1.0})) == {"GPU": 0.5, "big": 1.0}


def test_a_task_that_takes_nothing_is_refused() -> None:
    """It would fit on a head that has no cores, and any number of them on every node."""
    with pytest.raises(UserError, match="--resources CPU=0 is nothing: allowed are amounts of which one is above 0"):
        task_needs(Wanted(resources={"CPU": 0.0}))


@pytest.mark.cluster
def test_a_node_that_cannot_set_a_worker_up_is_one_of_many() -> None:
    """Its tasks are tried again elsewhere; a login that Ray refuses is the user's to mend."""
    from ray import exceptions

    explained = ray_executor._explained
    assert isinstance(explained(exceptions.RuntimeEnvSetupError("no space left on device")), NodeLostError)
    assert isinstance(explained(exceptions.AuthenticationError("no token")), UserError)


@pytest.mark.parametrize(
    ("address", "resources", "missing", "parts"),
    [
        ("", {}, ["ray"], ["Ray is not installed", "pip install 'harness[ray]'", "--executor processes"]),
        ("ray://head:10001", {}, ["grpc"], ["needs grpcio", "pip install 'harness[ray]'"]),
        ("head", {}, [], ["'head'", "HOST:PORT", "ray://HOST:PORT"]),
        ("http://head:8265", {}, [], ["'http://head:8265'", "ray://HOST:PORT"]),
        ("head:port", {}, [], ["'head:port'"]),
        ("auto", {"GPU": 1.5}, [], ["GPU=1.5", "whole numbers"]),
        ("auto", {"CPU": 0.00001}, [], ["CPU=1e-05", "0 and amounts of at least 0.0001"]),
        ("auto", {"big": 0.00001}, [], ["big=1e-05"]),
    ],
)
def test_what_cannot_be_a_cluster_is_refused(
    address: str, resources: Mapping[str, float], missing: Sequence[str], parts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what is allowed, before anything is connected."""
    find: Callable[[str], Any] = importlib.util.find_spec
    known = {name: None if name in missing else object() for name in ("ray", "grpc")}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: known[name] if name in known else find(name))
    with pytest.raises(UserError) as caught:
        check_cluster(address, resources)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("request_", [Request(ray_address="auto"), Request(resources={"CPU": 2})])
def test_what_is_for_ray_needs_ray(request_: Request, tmp_path: Path) -> None:
    """An option that would do nothing is an error."""
    with pytest.raises(UserError, match="is for --executor ray, and the executor is 'processes'"):
        check(make_study_file(tmp_path), request_)


@pytest.mark.parametrize(
    ("device", "resources", "expected"),
    [("auto", {}, "cpu"), ("auto", {"GPU": 0.5}, "cuda"), ("cuda", {}, "cuda"), ("cpu", {"GPU": 1}, "cpu")],
)
def test_workers_of_a_cluster_compute_where_is_asked_for(device: str, resources: dict[str, float], expected: str) -> None:
    """What the coordinator's machine has makes no difference."""
    assert worker_device(Request(executor="ray", device=device, resources=resources)) == expected


@pytest.mark.usefixtures("_no_ray")
def test_nothing_loads_ray_unless_it_is_asked_for() -> None:
    """The module that knows it can be loaded where it is not installed."""
    assert EXECUTORS.keys() >= {"ray"}
    importlib.reload(ray_executor)


@pytest.fixture
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an import of Ray an error."""
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.cluster
def test_a_cluster_that_nobody_runs_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong port at once, and auto where this machine is in no cluster; what SIGTERM does is left as it was."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    before, port = signal.getsignal(signal.SIGTERM), free_port()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "auto"):
        with pytest.raises(UserError, match=f"the Ray cluster {address} cannot be used: ") as caught:
            RayExecutor(Wanted(address=address), 1)
        assert "\n" not in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, whose workers find the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("GLIBC_TUNABLES", raising=False)
        port = free_port()
        with ray_cluster(2, client_port=port) as cluster:
            cluster.client_address = f"ray://127.0.0.1:{port}"
            yield cluster


def _end_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(path: Path) -> int:
    """Is under way until there is a file."""
    path.with_suffix(".begun").touch()
    while not path.exists():
        time.sleep(0.02)
    return os.getpid()


@pytest.mark.cluster
def test_a_worker_that_dies_takes_one_task_with_it(cluster: Any) -> None:
    """Others and later ones go on; a worker has its memory in huge pages."""
    with RayExecutor(Wanted(address=cluster.address), 1) as executor:
        assert (executor.workers, executor.slots) == (2, 3)
        dying, others = executor.submit(_end_self), [executor.submit(divmod, each, 3) for each in range(6)]
        with pytest.raises(WorkerDiedError, match="a worker process on the cluster ended"):
            dying.result(SECONDS)
        assert [other.result(SECONDS) for other in others] == [divmod(each, 3) for each in range(6)]
        assert executor.submit(os.getenv, "GLIBC_TUNABLES").result(SECONDS) == HUGE_PAGES


@pytest.mark.cluster
def test_a_task_that_waits_can_be_cancelled_and_an_error_ends_what_runs(cluster: Any, tmp_path: Path) -> None:
    """One that was begun cannot be cancelled; when the executor is left by an error its workers are gone soon."""
    gate = tmp_path / "gate"
    with suppress(KeyboardInterrupt), RayExecutor(Wanted(1, address=cluster.address), 1) as executor:
        process = executor.submit(os.getpid).result(SECONDS)
        begun, waiting = executor.submit(_wait_for, gate), executor.submit(divmod, 7, 3)
        _until(gate.with_suffix(".begun").exists)
        assert not begun.cancel()
        assert waiting.cancel()
        raise KeyboardInterrupt
    _until(lambda: not Path(f"/proc/{process}").exists())


def _until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.cluster
def test_nodes_that_join_are_used(cluster: Any, tmp_path: Path) -> None:
    """The number of tasks at a time follows the cluster's nodes, in both directions."""
    gate = tmp_path / "gate"
    with RayExecutor(Wanted(address=cluster.address), 1) as executor:
        tasks = [executor.submit(_wait_for, gate.with_name(f"gate{each}")) for each in range(3)]
        _until(lambda: sum(tmp_path.joinpath(f"gate{each}.begun").exists() for each in range(3)) == 2)
        assert executor.workers == 2
        node = cluster.add_node(num_cpus=1)
        _until(lambda: tmp_path.joinpath("gate2.begun").exists())
        assert executor.workers == 3
        for each in range(3):
            tmp_path.joinpath(f"gate{each}").touch()
        assert len({task.result(SECONDS) for task in tasks}) == 3
        cluster.remove_node(node)
        _until(lambda: executor.workers == 2)


@pytest.mark.cluster
def test_what_no_node_has_is_said(cluster: Any) -> None:
    """With the most that there is; a number of workers that is given is waited for instead."""
    with pytest.raises(
        UserError, match=r"no node of the Ray cluster has CPU=1, big=1: its 3 nodes have CPU=1, .*; see --resources"
    ):
        RayExecutor(Wanted(address=cluster.address, resources={"big": 1}), 1)
    with RayExecutor(Wanted(2, address=cluster.address, resources={"big": 1}), 1) as executor:
        future = executor.submit(divmod, 7, 3)
        node = cluster.add_node(num_cpus=1, resources={"big": 1})
        assert future.result(SECONDS) == (2, 1)
    cluster.remove_node(node)


@pytest.mark.cluster
def test_what_ray_does_not_take_leaves_no_connection(cluster: Any) -> None:
    """One line; the same program can connect again."""
    for _ in range(2):
        with pytest.raises(UserError, match="Ray does not take --resources CPU=1, GPU=1e-05: "):
            RayExecutor(Wanted(1, address=cluster.address, resources={"GPU": 1e-5}), 1)
    with RayExecutor(Wanted(address=cluster.address), 1) as executor:
        assert executor.submit(divmod, 7, 3).result(SECONDS) == (2, 1)


@pytest.mark.cluster
def test_a_sweep_without_nodes_ends_in_one_line(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When none has come for long; tasks that wait and tasks that were given to Ray alike."""
    monkeypatch.setattr(ray_executor, "NO_NODE_MINUTES", 0.05)
    with RayExecutor(Wanted(1, address=cluster.address, resources={"big": 1}), 1) as executor:
        for future in [executor.submit(divmod, 7, 3) for _ in range(2)]:
            with pytest.raises(UserError, match=r"for 0\.05 minutes no node of the Ray cluster has had CPU=1, big=1"):
                future.result(SECONDS)


@pytest.mark.cluster
def test_a_worker_with_another_program_is_refused(cluster: Any, plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers would be others; the line says what differs, and where."""
    program = provenance.program("compiled")
    monkeypatch.setattr(provenance, "program", lambda _: {**program, "torch": "1.0"})
    with pytest.raises(UserError, match=r"the worker on \S+ has torch \S+, and this command 1\.0: install the same on both"):
        run(plan, Means("ray", cluster=cluster.address))


@pytest.mark.cluster
def test_workers_need_no_files(cluster: Any, tmp_path: Path) -> None:
    """The images come through the object store, of which all workers of a node read the same copy; the numbers are equal."""
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 255, (200, 8, 8), dtype=np.uint8), np.arange(200) % 4
    path = tmp_path / "mine.npz"
    np.savez(path, images=images, labels=labels)
    base = replace(TINY, architecture="linear", dataset=f"npz:{path}")
    plan = make_plan(make_study_file(tmp_path, base=base), Request(device="cpu"))
    expected = numbers(run(plan))
    path.unlink()
    assert numbers(run(plan, Means("ray", cluster=cluster.address))) == expected
    with RayExecutor(Wanted(1, address=cluster.address, set_up=_give(plan)), 1) as executor:
        assert executor.submit(_is_own_copy, plan.placement.data_fingerprint).result(SECONDS) is False


def _give(plan: SweepPlan) -> Callable[[], None]:
    base = plan.study.base
    return partial(datasets.give, datasets.load(base.dataset, plan.placement.data_root, base.image_size))


def _is_own_copy(fingerprint: str) -> bool:
    data = datasets.given(fingerprint)
    assert data is not None
    return bool(data.pixels.images.flags.writeable)


@pytest.mark.cluster
def test_a_sweep_from_outside_the_cluster_has_the_same_numbers(cluster: Any, plan: SweepPlan) -> None:
    """Through Ray's client, which is all that a machine outside of it can reach."""
    assert numbers(run(plan, Means("ray", cluster=cluster.client_address))) == numbers(run(plan))


class _LosingTracker(NullTracker):
    """Has a node go away in the middle of the sweep."""

    def __init__(self, cluster: Any, node: Any) -> None:
        super().__init__()
        self.cluster, self.node, self.timer = cluster, node, threading.Timer(0.3, self._lose)

    def log_epochs(self, run_id: str, logs: Any) -> None:
        """Begins when the first segment is there."""
        super().log_epochs(run_id, logs)
        if self.node and not self.timer.is_alive():
            self.timer.start()

    def _lose(self) -> None:
        node, self.node = self.node, None
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self.cluster.worker_nodes.discard(node)


@pytest.mark.cluster
def test_a_node_that_disappears_costs_its_segments_and_no_number(tmp_path: Path) -> None:
    """Of three nodes one is killed in mid-sweep: the others do its work, no trial fails, and every number is the inline one."""
    base = replace(TINY, architecture="base", epochs=24, train_size=640)
    plan = make_plan(make_study_file(tmp_path, base=base, seeds=3), Request(device="cpu"))
    with ray_cluster(3) as cluster:
        display, tracker = QuietDisplay(), _LosingTracker(cluster, next(iter(cluster.worker_nodes)))
        outcome = run_sweep(plan, Means("ray", cluster=cluster.address, group_size=1, retries=1), tracker, display)
    assert outcome.summary.finished == 6
    assert any("was lost in the" in note for note in display.notes), display.notes
    assert numbers(outcome) == numbers(run(plan, Means("inline", group_size=1)))
