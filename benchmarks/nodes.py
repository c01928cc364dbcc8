"""The same sweep by local processes and by a Ray cluster: ``python -m benchmarks.nodes``.

Whole commands on stores of their own, in turn, each with 1, 2, 3 ... workers. The Ray nodes, of one core each unless
``--cores-per-node`` says more, all run on this machine and are there before the command starts, as a team's cluster is. Each
node, and a head beside them, has processes of its own; where there are no cores left for those, Ray takes longer than it would on
machines of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.services import ray_cluster
from harness.display import print_lines, print_table

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ["latent_sweep", "--dataset", "mnist", "--set", "architecture=base", "--set", "latent_size=2,5,10,20", "--seeds", "2"]
SWEEP += ["--epochs", "10", "--set", "transfer_epochs=10", "--set", "draws=2", "--device", "cpu"]


@dataclass(frozen=True)
class Outing:
    """One run of the sweep.

    Attributes:
        executor: Its name.
        workers: So many.
        seconds: Of the whole command.
        trials: That finished.
        numbers: Best value of each headline metric, which all runs share.
    """

    executor: str
    workers: int
    seconds: float
    trials: int
    numbers: dict[str, float]


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    parser.add_argument("--cores-per-node", type=int, default=1, metavar="N", help="of a Ray node")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often, in turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("words", nargs="*", default=SWEEP, help="of python -m harness.study (put -- before options)")
    given = parser.parse_args(words)
    outings = [
        run(executor, workers, given.words, given.cores_per_node)
        for _ in range(given.rounds)
        for workers in given.workers
        for executor in ("processes", "ray")
    ]
    _print(outings)
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in outings], indent=2) + "\n")
    return 0 if len({json.dumps(each.numbers) for each in outings}) == 1 else 1


def run(executor: str, workers: int, words: Sequence[str], cores_per_node: int = 1) -> Outing:
    """Runs the sweep in a new folder, with a new cluster where it needs one."""
    nodes = -(-workers // cores_per_node)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        tempfile.TemporaryDirectory(prefix="nodes-") as folder,
        ray_cluster(nodes, cores_per_node) if executor == "ray" else nullcontext() as cluster,
    ):
        where = ["--ray-address", cluster.address] if cluster else []
        command = [
            sys.executable,
            "-m",
            "harness.study",
            *words,
            "--executor",
            executor,
            "--workers",
            str(workers),
            *where,
            "--json",
        ]
        started = time.perf_counter()
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    summary = json.loads(ran.stdout)
    print_lines([f"{executor}, {workers} workers: {seconds:.1f} s"], to_stderr=True)
    best = {name: each["value"] for name, each in summary["best"].items()}
    return Outing(executor, workers, seconds, summary["trials"]["finished"], best)


def _print(outings: Sequence[Outing]) -> None:
    rows = []
    for workers in dict.fromkeys(each.workers for each in outings):
        seconds = {
            name: [each.seconds for each in outings if (each.executor, each.workers) == (name, workers)]
            for name in ("processes", "ray")
        }
        more = sorted(ray / processes - 1 for processes, ray in zip(*seconds.values(), strict=True))
        times = [median(each) for each in seconds.values()]
        rates = [60 * outings[0].trials / each for each in times]
        spread = f" ({more[0]:+.1%} to {more[-1]:+.1%})" if len(more) > 1 else ""
        rows.append(
            [str(workers), *(f"{each:.1f}" for each in times), *(f"{each:.2f}" for each in rates), f"{median(more):+.1%}{spread}"]
        )
    headings = ["workers", "processes, s", "Ray, s", "processes, trials/min", "Ray, trials/min", "Ray takes more"]
    print_table(f"{outings[0].trials} trials on {os.cpu_count()} cores", headings, rows, 0)


if __name__ == "__main__":
    sys.exit(main())
