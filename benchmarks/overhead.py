"""What a sweep's time goes into: ``python -m benchmarks.overhead`` runs one and says how much of it is not computing.

The workers' tasks are timed where they run. Everything else of the wall time, times the number of workers, is the start up to
the first task, waiting between tasks and for the last one of another worker, and the end, with the sweep's own pictures, after
that; the trials' pictures and files are timed inside the evaluation. A new grid's first tasks begin before MLflow is loaded:
where they have to wait for that, it counts as waiting.
With ``--memory`` also what its processes hold, each page that several share counted in parts (PSS; Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import executors, options, processes
from harness.groups import choose_workers

SAMPLE_SECONDS = 0.5
SPENT = {"training": 0.0, "evaluation": 0.0, "files": 0.0}
SPANS: list[tuple[float, float]] = []
"""When each task began and ended, by the clock that all processes of a machine share."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("words", nargs="*", default=["latent_sweep"], help="of python -m harness.study (put -- before options)")
    parser.add_argument("--memory", action="store_true", help="sample the processes' memory twice a second, which costs time")
    given = parser.parse_args(words)
    with sampled_memory() if given.memory else nullcontext(Memory()) as memory:
        started, ended, workers = time_sweep(given.words)
    console = Console()
    seconds, rest = ended - started, not_computing(started, ended, workers)
    console.print(_table(seconds, workers, rest))
    if given.memory:
        console.print(f"memory (PSS): {memory.together:.0f} MB together at the most, {memory.largest_child:.0f} MB of a worker")
    if given.json:
        content = {"workers": workers, "words": given.words, **SPENT, **rest, "wall": seconds, "memory": asdict(memory)}
        given.json.write_text(json.dumps(content, indent=2))


@dataclass
class Memory:
    """The most that was seen, in MB.

    Attributes:
        together: Of this process and all that it started.
        largest_child: Of one that it started.
    """

    together: float = 0.0
    largest_child: float = 0.0


@contextmanager
def sampled_memory() -> Iterator[Memory]:
    """Samples the memory of this process and of those below it until the block ends."""
    memory, is_over = Memory(), threading.Event()

    def sample() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            own, *children = [_pss(process) for process in _with_descendants(os.getpid())]
            memory.together = max(memory.together, own + sum(children))
            memory.largest_child = max([memory.largest_child, *children])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield memory
    finally:
        is_over.set()
        thread.join()


def _with_descendants(process: int) -> list[int]:
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            found += [each for child in task.read_text().split() for each in _with_descendants(int(child))]
    return found


def _pss(process: int) -> float:
    """Its share of memory in MB."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def time_sweep(words: Sequence[str]) -> tuple[float, float, int]:
    """Runs a study in a new folder with timed tasks; gives when it started and ended, and the number of workers."""
    executors.EXECUTORS["timed"] = lambda wanted: TimedExecutor(
        choose_workers(wanted.workers, wanted.device), wanted.set_up_local
    )
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            started = time.monotonic()
            from harness import study

            processes.prepare(study.WORKERS_LOAD)  # as the command does for the executor that the timed one stands for
            study.main([*words, "--executor", "timed"])
            ended = time.monotonic()
        finally:
            os.chdir(before)
    request = options.parse(words)
    return started, ended, choose_workers(request.workers, "cpu")


def not_computing(started: float, ended: float, workers: int) -> dict[str, float]:
    """Where the workers' other seconds went: before the first task, between tasks, and after the last one.

    A task without a result counts as waiting.
    """
    first, last = min(begin for begin, _ in SPANS), max(end for _, end in SPANS)
    busy = sum(end - begin for begin, end in SPANS)
    return {
        "start": (first - started) * workers,
        "between": (last - first) * workers - busy,
        "end": (ended - last) * workers,
    }


class TimedExecutor(executors.ProcessExecutor):
    """Processes, with the time of every task added to ``SPENT``."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """As its parent does; the future has the function's own result."""
        outer: Future[Any] = Future()
        super().submit(_timed, function, *arguments).add_done_callback(lambda inner: _unpack(inner, outer))
        return outer


def _unpack(inner: Future[Any], outer: Future[Any]) -> None:
    if outer.cancelled():
        return
    if error := inner.exception():
        outer.set_exception(error)
        return
    result, spent, span = inner.result()
    if spent:
        SPANS.append(span)
    for name, seconds in spent.items():
        SPENT[name] += seconds
    outer.set_result(result)


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, float], tuple[float, float]]:
    """In a worker: the function's result, the seconds that it and its files took, and when it began and ended.

    No seconds of what is neither training nor evaluation, such as drawing the report's charts.
    """
    from harness import trial

    module: Any = trial
    files, plain = 0.0, module.trial_artifacts

    def write(*given: Any) -> Any:
        nonlocal files
        begun = time.perf_counter()
        contents = plain(*given)
        files += time.perf_counter() - begun
        return contents

    module.trial_artifacts = write
    started = time.monotonic()
    try:
        result = function(*arguments)
    finally:
        module.trial_artifacts = plain
    ended = time.monotonic()
    names = {trial.run_segment: "training", trial.evaluate_group: "evaluation"}
    spent = {names[function]: ended - started, "files": files} if function in names else {}
    return result, spent, (started, ended)


def _table(seconds: float, workers: int, rest: dict[str, float]) -> Table:
    table = Table(title=f"{seconds:.1f} s with {workers} workers")
    for heading in ("part", "seconds of all workers", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    whole = seconds * workers
    rows = {
        "training": SPENT["training"],
        "evaluation": SPENT["evaluation"] - SPENT["files"],
        "pictures and files of trials": SPENT["files"],
        "all else": sum(rest.values()),
        "  start, up to the first task": rest["start"],
        "  waiting, between tasks and for the last one": rest["between"],
        "  end, with the sweep's report": rest["end"],
    }
    for part, spent in rows.items():
        table.add_row(part, f"{spent:.1f}", f"{spent / whole:.1%}")
    return table


if __name__ == "__main__":
    main()
