"""Training one by one against training as stacks on whatever device is here; needs neither MLflow nor Optuna.

``python -m benchmarks.device`` prints, for MNIST-sized images: trials per minute of the plain trainer and of stacks of K; on a
CPU those of a stack by torch, with products by MKL and by oneDNN, by the compiled kernels, and in bfloat16; the time of a step's
convolutions done in each way; on request that of a step as it is and as ``torch.compile`` has it; and the time of the whole
63-trial sweep, training, evaluation and files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from harness import convolutions, datasets, models, numerics
from harness.config import Placement, Trial, TrialConfig
from harness.groups import choose_group_size, least_parts, partition
from harness.kernels import in_use, kernels_wanted
from harness.lowering import Geometry
from harness.material import gather
from harness.numerics import computing_on
from harness.stacks import stack
from harness.train import TrainState, shape_of
from harness.trial import evaluate_group, run_segment

LATENT_SIZES, ARCHITECTURES, SEEDS = (2, 5, 10, 15, 20, 25, 30), ("base", "deep", "heavy"), (0, 1, 2)
LAYERS = {
    28: ((28, 1, 16), (14, 16, 32), (7, 32, 64), (4, 64, 128)),
    8: ((8, 1, 16), (4, 16, 32), (2, 32, 64), (2, 64, 128), (2, 64, 64)),
}
"""The convolutions of ``deep`` by the side of the images, those of ``base`` first, and one of ``residual``: side of the large
map, channels on the large side and on the small one."""

SMALL = 4
"""Positions of a small map up to which its convolution as a matrix is timed as well."""

STEPS = 5
"""Of a training that are timed together."""


@dataclass(frozen=True)
class Rate:
    """How fast trials train.

    Attributes:
        name: Trainer, and the number of trials in a stack.
        per_minute: Trials a minute of the whole training, a value a round.
    """

    name: str
    per_minute: tuple[float, ...]

    @property
    def median(self) -> float:
        """Over the rounds."""
        return statistics.median(self.per_minute)


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command."""
    options = _parser().parse_args(words)
    placement = Placement(datasets.data_root(options.data_root), _device(options.device))
    base = TrialConfig(dataset=options.dataset, train_size=options.train_size, epochs=options.epochs)
    datasets.prepare(base.dataset, placement.data_root)
    console = Console()
    console.print(_machine(placement.device))
    results: dict[str, Any] = {"machine": _machine(placement.device), "options": vars(options) | {"json": ""}}
    rates = measure_rates(base, placement, options.sizes, options.measured_epochs, options.rounds)
    console.print(_rates_table(rates, base))
    results["rates"] = [asdict(rate) for rate in rates]
    if options.products:
        products = measure_products(base, placement, max(options.sizes), options.measured_epochs, options.rounds)
        console.print(_rates_table(products, base))
        results["products"] = [asdict(rate) for rate in products]
    if options.layers:
        side = datasets.load(base.dataset, placement.data_root, None).shape[-1]
        with computing_on(placement.device):
            results["layers"] = measure_layers(side, placement.device, max(options.sizes), base.batch_size)
        console.print(_layers_table(results["layers"], max(options.sizes)))
    if options.compile:
        results["compiled"] = measure_compiled(base, placement, max(options.sizes), options.rounds)
        console.print(_compiled_table(results["compiled"], max(options.sizes)))
    if options.sweep:
        results["sweep"] = time_sweep(base, placement, options.group_size)
        console.print(_sweep_table(results["sweep"]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2, default=str))


def measure_rates(base: TrialConfig, placement: Placement, sizes: Sequence[int], measured_epochs: int, rounds: int) -> list[Rate]:
    """Times some epochs of ``base``, one by one and as stacks of each size, in alternation."""
    plain = replace(placement, trainer="plain")
    contestants = {"one by one": (1, partial(run_segment, _members(base, "base", 1), None, measured_epochs, plain))}
    for size in sizes:
        stack = partial(run_segment, _members(base, "base", size), None, measured_epochs, placement)
        contestants[f"stack of {size}"] = (size, stack)
    return _in_turn(contestants, base.epochs / measured_epochs, rounds)


def measure_products(base: TrialConfig, placement: Placement, size: int, measured_epochs: int, rounds: int) -> list[Rate]:
    """The same for a stack of each architecture: by torch, with MKL, its own choice, or oneDNN; by kernels; in bfloat16."""
    contestants = {}
    for architecture in ARCHITECTURES:
        train = partial(run_segment, _members(base, architecture, size), None, measured_epochs)
        by_torch = partial(train, replace(placement, kernels="torch"))
        contestants[f"{architecture}, MKL"] = (size, partial(_by_mkl, by_torch))
        contestants[f"{architecture}, oneDNN"] = (size, by_torch)
        if in_use("cpu", torch.float32):
            contestants[f"{architecture}, kernels"] = (size, partial(train, placement))
        contestants[f"{architecture}, bfloat16"] = (size, partial(train, replace(placement, precision="bfloat16")))
    return _in_turn(contestants, base.epochs / measured_epochs, rounds)


def _in_turn(contestants: Mapping[str, tuple[int, Callable[[], Any]]], times: float, rounds: int) -> list[Rate]:
    """Trials a minute of trainings of so many trials each, of which a whole one is so many times as long."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):  # the first warms up
        for name, (size, train) in contestants.items():
            seconds = _seconds(train)
            if turn:
                found[name].append(60 * size / (seconds * times))
    return [Rate(name, tuple(values)) for name, values in found.items()]


def _by_mkl(train: Callable[[], Any]) -> Any:
    plain = numerics.onednn_keeps_float32
    numerics.onednn_keeps_float32 = lambda: False  # type: ignore[assignment]
    try:
        return train()
    finally:
        numerics.onednn_keeps_float32 = plain


def _members(base: TrialConfig, architecture: str, count: int) -> list[TrialConfig]:
    return [_config(base, architecture, size=LATENT_SIZES[k % 7], seed=k // 7) for k in range(count)]


def measure_layers(images_side: int, device: str, members: int, batch: int) -> list[dict[str, Any]]:
    """Milliseconds of a forward and a backward pass of each layer of ``LAYERS``, in each way that there is."""
    rows = []
    for (side, wide, narrow), transposed in itertools.product(LAYERS.get(images_side, ()), (False, True)):
        stride = 2 if side > models.SMALLEST_MAP else 1
        small = -(-side // stride)
        geometry = Geometry((3, 3), (stride, stride), (1, 1), (side, side), (small, small))
        weight = torch.randn(members, wide, 3, 3, narrow, device=device).permute(0, 4, 1, 2, 3).requires_grad_()  # as a stack's
        shape = (members * batch, narrow, small, small) if transposed else (members * batch, wide, side, side)
        maps = torch.randn(shape, device=device).to(memory_format=torch.channels_last).requires_grad_()
        chosen = convolutions.choose(geometry, (narrow, wide), transposed, torch.device(device).type)
        title = f"{wide} x {side} x {side}, {narrow} x {small} x {small}{' back' if transposed else ''}"
        row: dict[str, Any] = {"layer": title, "chosen": chosen}
        left_out = {"matrix"} if small * small > SMALL else set()  # it would be larger than the maps
        left_out |= set() if in_use(torch.device(device).type, torch.float32) else {"compiled"}
        for name, algorithm in convolutions.ALGORITHMS.items():
            if name not in left_out:
                step = partial(_forward_and_backward, algorithm, maps, weight, geometry, transposed)
                row[name] = statistics.median([_seconds(step) for _ in range(25)][5:]) * 1e3
        rows.append(row)
    return rows


def _forward_and_backward(
    algorithm: convolutions.Algorithm, maps: Tensor, weight: Tensor, geometry: Geometry, transposed: bool
) -> None:
    maps.grad = weight.grad = None
    algorithm(maps, weight, None, geometry, transposed, torch.float32).square().sum().backward()


def measure_compiled(base: TrialConfig, placement: Placement, members: int, rounds: int) -> dict[str, Any]:
    """Times a training step of a stack of ``base`` as it is and compiled, in turn: ms a step and member, and s of compiling."""
    with computing_on(placement.device), kernels_wanted(False):  # torch.compile sees only what is torch's
        images = gather(base, placement).splits.train.images[: base.batch_size]
        batch = images.repeat(members, 1, 1, 1)
        steps = {name: _step_of(base, shape_of(images), members, batch, name == "compiled") for name in ("eager", "compiled")}
        compiling = _seconds(steps["compiled"])
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _, (name, step) in itertools.product(range(rounds), steps.items()):
            found[name].append(1000 * _seconds(lambda step=step: [step() for _ in range(STEPS)]) / STEPS / members)  # type: ignore[misc]
    return {**found, "compiling": compiling}


def _step_of(base: TrialConfig, shape: models.Shape, members: int, batch: Tensor, is_compiled: bool) -> Callable[[], Any]:
    net: models.Autoencoder = stack([models.build(shape, config) for config in _members(base, "base", members)])
    net.train()

    def loss(images: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(net.decoder(net.encoder(images)), images)

    measured = torch.compile(loss) if is_compiled else loss

    def step() -> None:
        net.zero_grad()
        measured(batch).backward()

    return step


def time_sweep(base: TrialConfig, placement: Placement, group_size: int) -> dict[str, float]:
    """Seconds of all trials of the ``latent_sweep`` grid on one worker: training, evaluation, files."""
    configs = [_config(base, name, size, seed) for seed in SEEDS for name in ARCHITECTURES for size in LATENT_SIZES]
    trials = [Trial(number, config) for number, config in enumerate(configs)]
    pixels = int(torch.tensor(datasets.load(base.dataset, placement.data_root, None).shape).prod())
    groups = partition(trials, choose_group_size(group_size, placement, pixels), least_parts(group_size, placement))
    train = evaluate = 0.0
    finished = 0
    for group in groups:
        members = [trial.config for trial in group]
        started = time.perf_counter()
        states: list[TrainState] = run_segment(members, None, base.epochs, placement).states
        train += time.perf_counter() - started
        started = time.perf_counter()
        finished += sum(result.status == "finished" for result in evaluate_group(members, states, placement))
        evaluate += time.perf_counter() - started
    return {"trials": len(trials), "finished": finished, "groups": len(groups), "training": train, "evaluation": evaluate}


def _config(base: TrialConfig, architecture: str, size: int, seed: int) -> TrialConfig:
    return models.resolve(replace(base, architecture=architecture, latent_size=size, seed=seed))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()
    return f"{device}: {name}, Python {platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"


def _rates_table(rates: Sequence[Rate], base: TrialConfig) -> Table:
    table = Table(title=f"{base.dataset}, {base.epochs} epochs: training only")
    for heading in ("trainer", "trials a minute", "lowest", "highest", "times the first"):
        table.add_column(heading, justify="left" if heading == "trainer" else "right")
    for rate in rates:
        low, high = min(rate.per_minute), max(rate.per_minute)
        ratio = f"{rate.median / rates[0].median:.2f}"
        table.add_row(rate.name, f"{rate.median:.1f}", f"{low:.1f}", f"{high:.1f}", ratio)
    return table


def _layers_table(rows: Sequence[dict[str, Any]], members: int) -> Table:
    table = Table(title=f"forward and backward of a layer, stack of {members}, ms")
    table.caption = "" if rows else f"layers are known for images with sides of {', '.join(map(str, sorted(LAYERS)))}"
    table.add_column("layer")
    table.add_column("chosen")
    for name in convolutions.ALGORITHMS:
        table.add_column(name, justify="right")
    for row in rows:
        times = (f"{row[name]:.2f}" if name in row else "" for name in convolutions.ALGORITHMS)
        table.add_row(row["layer"], row["chosen"], *times)
    return table


def _compiled_table(found: dict[str, Any], members: int) -> Table:
    table = Table("training step", "ms a member, median", "minimum", "maximum", title=f"base, a stack of {members}")
    for name in ("eager", "compiled"):
        table.add_row(name, *(f"{pick(found[name]):.2f}" for pick in (statistics.median, min, max)))
    table.caption = f"compiling took {found['compiling']:.0f} s"
    return table


def _sweep_table(sweep: dict[str, float]) -> Table:
    table = Table(title="the whole sweep on one worker")
    for heading in ("trials", "finished", "groups", "training, s", "evaluation and files, s", "together, s"):
        table.add_column(heading, justify="right")
    train, evaluate = sweep["training"], sweep["evaluation"]
    counts = [str(int(sweep[name])) for name in ("trials", "finished", "groups")]
    table.add_row(*counts, f"{train:.1f}", f"{evaluate:.1f}", f"{train + evaluate:.1f}")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to train")
    parser.add_argument("--dataset", default="mnist", help="default mnist; digits needs no files")
    parser.add_argument("--data-root", help="where datasets are kept (default: HARNESS_DATA, else the user's cache folder)")
    parser.add_argument("--train-size", type=int, default=3300)
    parser.add_argument("--epochs", type=int, default=30, help="of a whole training")
    parser.add_argument("--measured-epochs", type=int, default=3, help="of a training that are timed")
    parser.add_argument("--sizes", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16, 64])
    parser.add_argument("--group-size", type=int, default=0, help="of the whole sweep (default: the harness's own choice)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", action=argparse.BooleanOptionalAction, default=not torch.cuda.is_available())
    parser.add_argument("--layers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--compile", action="store_true", help="time torch.compile, too; it takes a C++ compiler, and a minute or two"
    )
    parser.add_argument("--sweep", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser


if __name__ == "__main__":
    main()
