"""Runs the functions as tasks of a Ray cluster. The only file that knows Ray, which is loaded when a cluster is wanted."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

from harness.rules import UserError
from harness.workers import HUGE_PAGES, TUNABLES, WORKER, Call, NodeLostError, Wanted, WorkerDiedError

HERE = "local"
"""Ray's word for a cluster that is started on this machine and ends with the command."""

ADDRESS = re.compile(r"(ray://)?(?P<host>[^\s:/@\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
CONNECT_SECONDS = 5
LOOK_SECONDS = 2.0
"""How often it is looked which nodes there are: those that join are used, and those that have left are no longer."""

LEAST_AMOUNT = 0.0001
"""Of a resource: Ray counts in units of it."""

NO_NODE_MINUTES = 30.0
"""So long a sweep waits for a node that its tasks fit on, when there is none left."""

EVERY_GPU = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""Has a worker see all GPUs of its node. Of those that Ray shows to a task a process sees the first task's for ever."""


class RayExecutor:
    """Gives the functions to Ray, as many at a time as its nodes have room for; the others wait here and can be cancelled.

    A task that has been given to Ray has begun. All that Ray is asked is asked on one thread: its own threads, which bring
    the results, must not wait for it.
    """

    has_local_workers = False

    def __init__(self, wanted: Wanted, here: int) -> None:
        """Connects to the cluster, or starts one on this machine.

        Args:
            wanted: Where, and how much a task takes.
            here: Workers on this machine, where no address is given.

        Raises:
            UserError: if there is no such cluster, or none of its nodes has room for a task.
        """
        self._needs = task_needs(wanted)
        self._ray = _connect(wanted.address or os.environ.get("RAY_ADDRESS") or HERE, here, self._needs)
        self._limit = wanted.workers
        self._room, self._looked, self._room_since = 0, -math.inf, time.monotonic()
        try:
            self._prepare(wanted.set_up)
        except BaseException:
            self._ray.shutdown()
            raise
        self._lock = threading.Lock()
        self._waiting, self._running = deque[Call](), set[Call]()
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name="ray", daemon=True)
        self._thread.start()

    def _prepare(self, set_up: Callable[[], None] | None) -> None:
        """Looks at the nodes, and gives Ray what all tasks have in common."""
        self._look()
        if not self._room and not self._limit:
            raise UserError(f"no node of the Ray cluster has {_words(self._needs)}: {self._seen}; see --resources and --workers")
        run = self._ray.remote(max_retries=0, max_calls=0)(_run)  # tried again by the sweep; and a worker stays, with a GPU too
        try:
            self._task = run.options(**_task_options(self._needs))
        except (TypeError, ValueError) as error:  # such as an amount that this kind of accelerator cannot be cut into
            raise UserError(f"Ray does not take --resources {_words(self._needs)}: {' '.join(str(error).split())}") from None
        self._set_up = self._ray.put(set_up)

    @property
    def workers(self) -> int:
        """What was asked for, else what the nodes have room for just now."""
        return self._limit or max(1, self._room)

    @property
    def slots(self) -> int:
        """One more than can run, so that no worker waits for the coordinator."""
        return self.workers + 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Queues the function for the next place on a node."""
        call = Call(function, arguments, Future())
        with self._lock:
            self._waiting.append(call)
        self._events.put(None)
        return call.future

    def _serve(self) -> None:
        """Passes results on, looks at the nodes and gives waiting tasks to Ray, until it is over."""
        while not self._is_over:
            try:
                event = self._events.get(timeout=LOOK_SECONDS)
            except Empty:
                event = None
            if event:
                event()
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
                self._give_up_without_nodes()
            while len(self._running) < self.workers and (call := self._next()):
                self._hand_over(call)

    def _next(self) -> Call | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _hand_over(self, call: Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            inner = self._task.remote(self._set_up, call.function, *call.arguments).future()
        except Exception as error:  # of pickle, or the connection is gone
            call.future.set_exception(_explained(error))
            return
        self._running.add(call)
        inner.add_done_callback(lambda done: self._events.put(partial(self._take_result, call, done)))

    def _take_result(self, call: Call, done: Future[Any]) -> None:
        if call not in self._running:
            return
        self._running.remove(call)
        if error := done.exception():
            call.future.set_exception(_explained(error))
        else:
            call.future.set_result(done.result())

    def _look(self) -> None:
        """Counts the tasks that fit on the nodes that there are; where Ray does not answer, what was known stays."""
        self._looked = time.monotonic()
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        except Exception:  # whatever it is: the tasks' futures say it
            return
        self._room = sum(tasks_that_fit(node, self._needs) for node in nodes)
        self._seen = f"its {len(nodes)} nodes have {_words(_largest(nodes))} at the most" if nodes else "it has no nodes"
        if self._room:
            self._room_since = self._looked

    def _give_up_without_nodes(self) -> None:
        """Ends what waits for a node that does not come."""
        if self._looked - self._room_since < 60 * NO_NODE_MINUTES:
            return
        left = [*self._running]
        self._running.clear()
        while call := self._next():
            if call.future.set_running_or_notify_cancel():
                left.append(call)
        for call in left:
            message = f"for {NO_NODE_MINUTES:g} minutes no node of the Ray cluster has had {_words(self._needs)}: {self._seen}"
            call.future.set_exception(UserError(f"{message}; with nodes again the same command goes on"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leaves the cluster, which ends the workers that it had for this command; one that was started here is stopped."""
        self._is_over = True
        self._events.put(None)
        self._thread.join()
        self._ray.shutdown()


_SET_UP = threading.Event()
"""In a worker: whether it has been set up. Ray gives each command workers of its own."""


def _run(set_up: Callable[[], None] | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """In a worker: sets it up where this is its first task, and runs the function."""
    os.environ[WORKER] = str(_gpu_index())
    if set_up and not _SET_UP.is_set():
        set_up()
        _SET_UP.set()
    return function(*arguments)


def _gpu_index() -> int:
    """The number of the task's GPU among those that torch sees; 0 where it has none."""
    import ray

    given, seen = [str(each) for each in ray.get_gpu_ids()], os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if not given:
        return 0
    return seen.index(given[0]) if given[0] in seen else int(given[0])


def check_cluster(address: str, resources: Mapping[str, float]) -> None:
    """Checks what can be checked of a cluster without connecting to it.

    Raises:
        UserError: if Ray is not installed, or the address is none, or an amount cannot be one.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--executor is 'ray', and Ray is not installed: pip install 'harness[ray]', or use --executor processes")
    if address and address != "auto" and not ADDRESS.fullmatch(address):
        raise UserError(
            f"--ray-address is {address!r}: allowed are auto (the cluster that this machine is in), HOST:PORT and ray://HOST:PORT"
        )
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise UserError(
            "--ray-address is ray://, which needs grpcio: pip install 'harness[ray]', or give HOST:PORT on a node of the cluster"
        )
    for name, amount in resources.items():
        if 0 < amount < LEAST_AMOUNT:
            raise UserError(f"--resources has {name}={amount:g}: allowed are 0 and amounts of at least {LEAST_AMOUNT:g}")
    gpus = resources.get("GPU", 0)
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"--resources has GPU={gpus:g}: allowed are fractions of one GPU, and whole numbers")


def task_needs(wanted: Wanted) -> dict[str, float]:
    """What a task takes of a node: one core, and a GPU where it computes on one, unless something else is asked for.

    Raises:
        UserError: if it is to take nothing: Ray would put any number of such tasks anywhere, also on a head without cores.
    """
    needs = {"CPU": 1.0, **({"GPU": 1.0} if wanted.device != "cpu" else {}), **wanted.resources}
    if needs := {name: amount for name, amount in needs.items() if amount}:
        return needs
    raise UserError(
        f"--resources {_words(wanted.resources)} is nothing: allowed are amounts of which one is above 0, such as CPU=0.5"
    )


def tasks_that_fit(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many tasks a node has room for at a time; a fraction of a GPU is of one GPU."""
    counts = [_count(name, node.get(name, 0.0), amount) for name, amount in needs.items()]
    return min(counts)


def _count(name: str, there: float, amount: float) -> int:
    if name == "GPU" and amount < 1:
        return int(there) * int(1 / amount + 1e-6)
    return int(there / amount + 1e-6)


def _task_options(needs: Mapping[str, float]) -> dict[str, Any]:
    own = {name: amount for name, amount in needs.items() if name not in ("CPU", "GPU", "memory")}
    options = {"num_cpus": needs.get("CPU", 0), "num_gpus": needs.get("GPU", 0), "resources": own}
    return options | ({"memory": needs["memory"]} if "memory" in needs else {})


def _words(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={amount:g}" for name, amount in amounts.items()) or "nothing"


def _largest(nodes: list[Mapping[str, float]]) -> dict[str, float]:
    """The most that a node has of each resource, without the names that Ray gives to the nodes themselves."""
    names = sorted({name for node in nodes for name in node if not name.startswith(("node:", "object_store"))})
    return {name: max(node.get(name, 0.0) for node in nodes) for name in names}


def _connect(address: str, here: int, needs: Mapping[str, float]) -> Any:
    """Connects to a cluster; gives Ray.

    Raises:
        UserError: if there is none; says where.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if found := ADDRESS.fullmatch(address):
        _check_listening(address, found["host"].strip("[]"), int(found["port"]))
    import ray

    variables = {EVERY_GPU: "1"} | ({} if TUNABLES in os.environ else {TUNABLES: HUGE_PAGES})
    own = {"num_cpus": math.ceil(here * needs.get("CPU", 0)), "include_dashboard": False} if address == HERE else {}
    with _signals_kept():
        try:
            ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # whatever Ray raises where it finds no cluster, or one of another version
            cause = " ".join(str(error).split())[:300]
            step = "start one with 'ray start --head', or give another --ray-address"
            raise UserError(f"the Ray cluster {address} cannot be used: {cause}: {step}") from error
    # what befalls a node Ray would print on stdout, where a program may read the summary; the sweep says it itself
    ray._private.worker.print_to_stdstream = lambda *arguments, **named: None
    return ray


def _check_listening(address: str, host: str, port: int) -> None:
    """Ray itself would try for a minute where nobody listens."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"the Ray cluster {address} cannot be used: nobody listens there ({error}): start it, or give another --ray-address"
        ) from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Puts back what SIGTERM did before: Ray has it end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explained(error: BaseException) -> BaseException:
    """What a sweep is told of an error that came through Ray: the task's own error as itself, anything else as a death."""
    from ray import exceptions

    if isinstance(error, exceptions.RayTaskError):
        return _explained(error.cause)
    if not isinstance(error, exceptions.RayError):
        return error
    cause = " ".join(str(error).split())[:300]
    if isinstance(error, exceptions.AuthenticationError):
        return UserError(f"the Ray cluster cannot run a task: {cause}")
    if isinstance(error, exceptions.RuntimeEnvSetupError):  # one sick node of many: no reason to end a sweep
        return NodeLostError(f"a node could not set up a worker ({cause})")
    if isinstance(error, exceptions.NodeDiedError | exceptions.ObjectLostError):
        address = re.search(r"IP: ([^\s,]+)", cause)
        return NodeLostError(f"the node {address[1]} was lost" if address else "a node was lost")
    if isinstance(error, exceptions.OutOfMemoryError):
        return WorkerDiedError("a worker process was killed, as the memory of its node was full")
    if isinstance(error, exceptions.WorkerCrashedError):
        return WorkerDiedError("a worker process on the cluster ended")
    return WorkerDiedError(f"Ray could not do it ({cause})")
