"""What a worker does, without a coordinator."""

from __future__ import annotations

import itertools
import pickle
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import compiler, datasets, provenance, train, train_stack, transfer, trial
from harness.config import Placement, TrialConfig, TrialResult
from harness.executors import EXECUTORS
from harness.measures import METRICS
from harness.models import ARCHITECTURES, resolve
from harness.options import PRECISIONS as NAMED_PRECISIONS
from harness.options import TRAINERS
from harness.rules import UserError
from harness.trial import PRECISIONS, Segment, evaluate_group, run_segment, set_up_worker
from harness.workers import Wanted
from tests.support import EXECUTOR_NAMES, TIMES, TINY, torch_settings

ACCURACY = 0.02
"""What an accuracy may differ by between the two ways: some of the 359 test images lie on the border."""

ROUNDING, AFTER_BATCH_NORM = 1e-4, 0.1
"""Relative, of all other numbers; the latter of encoders that are trained along with batch norms, where the gradient of a
bias is nothing but rounding and Adam makes a whole step of it."""


@pytest.fixture(params=TRAINERS)
def placement(request: pytest.FixtureRequest, tmp_path: Path) -> Placement:
    """This machine's CPU, with each of the trainers: what a worker does holds for both."""
    return Placement(str(tmp_path / "data"), trainer=request.param)


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that must not depend on when or where they were measured."""
    return {name: value for name, value in metrics.items() if not name.startswith("cost/") or name == "cost/parameters"}


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_trial_runs_alone_for_every_architecture(architecture: str, placement: Placement) -> None:
    """From a record to a result, without Optuna, MLflow or a coordinator; the result can be pickled."""
    config = resolve(replace(TINY, architecture=architecture))
    segment = run_segment([config], None, config.epochs, placement)
    (result,) = evaluate_group([config], segment.states, placement)
    assert result.status == "finished"
    assert (result.host, result.device_name) == (platform.node(), provenance.device_name("cpu"))
    assert {"reconstruction_loss", "max_latent_correlation", "transfer_accuracy", "val/mse"} <= result.metrics.keys()
    assert all(len(values) == config.transfer_epochs for values in result.curves.values())
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301  # our own bytes


def test_a_stack_too_large_for_the_memory_is_halved_until_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of the stacks that fit, and the size is given so that the next segment begins with it."""
    sizes: list[int] = []
    plain = train_stack.train_stack

    def with_little_memory(configs: Sequence[TrialConfig], *arguments: Any) -> Any:
        sizes.append(len(configs))
        if len(configs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(configs, *arguments)

    configs = [replace(resolve(replace(TINY, architecture="linear")), seed=seed) for seed in range(5)]
    placement = Placement(str(tmp_path / "data"))
    states = run_segment(configs, None, 0, placement).states
    expected = [run_segment(configs[part], states[part], 1, placement).states for part in (slice(0, 2), slice(2, 4), slice(4, 5))]
    monkeypatch.setattr(train_stack, "train_stack", with_little_memory)
    segment = run_segment(configs, states, 1, placement)
    assert (sizes, segment.at_once) == ([5, 3, 2, 2, 1], 2)
    for state, other in zip(segment.states, itertools.chain.from_iterable(expected), strict=True):
        assert all(np.array_equal(array, other.weights[name]) for name, array in state.weights.items())
    sizes.clear()
    assert run_segment(configs, segment.states, 1, placement, segment.at_once).at_once == 2
    assert sizes == [2, 2, 1]


def shared(labels: Sequence[int] = (10, 20, 20, 40)) -> list[TrialConfig]:
    """Members of two networks, of seed 0 and of seed 1, with labels of their own."""
    configs = [replace(TINY, architecture="linear", epochs=4, labels=count, seed=place % 2) for place, count in enumerate(labels)]
    return [resolve(config) for config in configs]


def test_members_that_differ_in_their_labels_share_one_training(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks for four members, with the bits that they have without the others, and the time of the network."""
    alone = run_segment(shared()[:2], None, 2, placement)
    trained: list[int] = []
    for name in ("train_group", "train_group_as_stack"):
        monkeypatch.setattr(trial, name, _counted(getattr(trial, name), trained))
    segment = run_segment(shared(), run_segment(shared(), None, 1, placement).states, 1, placement)
    assert trained == [2, 2]
    for place, (state, logs) in enumerate(zip(segment.states, segment.logs, strict=True)):
        expected = alone.states[place % 2]
        assert state.weights.keys() == expected.weights.keys()
        assert all(np.array_equal(array, expected.weights[name]) for name, array in state.weights.items())
        assert [replace(log, seconds=0.0) for log in state.logs] == [replace(log, seconds=0.0) for log in expected.logs]
        assert logs == [state.logs[-1]]
    assert segment.states[0].seconds == segment.states[2].seconds > 0


def _counted(train_them: Callable[..., Any], sizes: list[int]) -> Callable[..., Any]:
    def counting(configs: Sequence[TrialConfig], *arguments: Any) -> Any:
        sizes.append(len(configs))
        return train_them(configs, *arguments)

    return counting


def test_a_member_that_is_given_up_does_not_end_the_others_of_its_network(placement: Placement) -> None:
    """The first stays as it was, and the third, with other labels and the same network, goes on."""
    states = run_segment(shared(), None, 2, placement).states
    states[0] = replace(states[0], failure="pruned", is_pruned=True)
    after = run_segment(shared(), states, 2, placement).states
    assert [state.epoch for state in after] == [2, 4, 4, 4]
    assert [state.is_pruned for state in after] == [True, False, False, False]
    expected = run_segment(shared()[:2], states[2:], 2, placement).states
    for state, other in zip(after[1:], (expected[1], expected[0], expected[1]), strict=True):
        assert all(np.array_equal(array, other.weights[name]) for name, array in state.weights.items())
    assert all(np.array_equal(array, after[0].weights[name]) for name, array in states[0].weights.items())


@pytest.mark.parametrize("other", EXECUTOR_NAMES[1:])
def test_every_executor_gives_the_same_bits(other: str, tmp_path: Path) -> None:
    """Numbers, curves, weights, codes and pictures of every architecture are equal, whoever ran the group."""
    small = {name: {"width": 4} if "width" in each.defaults else {} for name, each in ARCHITECTURES.items()}
    groups = [[resolve(replace(TINY, architecture=name, draws=1, **fields))] for name, fields in small.items()]
    groups[0].append(replace(groups[0][0], latent_size=2))
    placement = Placement(str(tmp_path / "data"))
    files = ("model/model.safetensors", "latents/test_codes.npz", "reconstructions.png", "interpolation/strips.png")
    outcomes = {}
    for name in ("inline", other):
        with EXECUTORS[name](Wanted(1)) as executor:
            segments: list[Segment] = [
                future.result(120) for future in [executor.submit(run_segment, group, None, 2, placement) for group in groups]
            ]
            futures = [
                executor.submit(evaluate_group, group, segment.states, placement)
                for group, segment in zip(groups, segments, strict=True)
            ]
            results = [result for future in futures for result in future.result(120)]
        outcomes[name] = [(numbers(each.metrics), each.curves, [each.artifacts[file] for file in files]) for each in results]
    assert outcomes[other] == outcomes["inline"]


def assert_results_agree(results: Sequence[TrialResult], others: Sequence[TrialResult]) -> None:
    """Every metric that one has the other has, within rounding; so are the curves."""
    for result, other in zip(results, others, strict=True):
        assert (result.status, result.config) == (other.status, other.config)
        values, expected = dict(result.metrics), dict(other.metrics)
        for curve, own in result.curves.items():
            values |= {f"{curve}/{epoch}": value for epoch, value in enumerate(own)}
            expected |= {f"{curve}/{epoch}": value for epoch, value in enumerate(other.curves[curve])}
        assert values.keys() == expected.keys() >= {name for name, metric in METRICS.items() if not metric.group}
        for name in [each for each in values if each not in TIMES]:
            value = values[name]
            is_trained_along = name.startswith(("transfer/finetuned", "transfer/scratch"))
            if "accuracy" in name:
                bound = {"abs": 2 * ACCURACY if is_trained_along or "train_accuracy" in name else ACCURACY}
            else:
                bound = {"rel": AFTER_BATCH_NORM if is_trained_along else ROUNDING}
            assert value == pytest.approx(expected[name], **bound), name


def evaluate_in_both_ways(configs: Sequence[TrialConfig], tmp_path: Path) -> tuple[list[TrialResult], list[TrialResult]]:
    """The results of the same trained states, stacked and plain."""
    stacked, plain = (Placement(str(tmp_path / "data"), trainer=trainer) for trainer in ("stacked", "plain"))
    states = run_segment(configs, None, 2, plain).states
    expected = evaluate_group(configs, states, plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(transfer, "classify")  # so that nothing is measured one by one after all
        return evaluate_group(configs, states, stacked), expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_group_is_measured_as_its_members_are_alone(architecture: str, tmp_path: Path) -> None:
    """Every metric and every curve of members of different sizes and seeds, at a quarter of the architecture's width."""
    own = ARCHITECTURES[architecture].defaults
    base = replace(TINY, architecture=architecture, width=own["width"] // 4 if "width" in own else None)
    configs = [resolve(replace(base, latent_size=size, seed=seed)) for size, seed in ((3, 0), (2, 1))]
    assert_results_agree(*evaluate_in_both_ways(configs, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_group_of_every_architecture_as_it_is_is_measured_as_its_members_are_alone(architecture: str, tmp_path: Path) -> None:
    """The same at full width."""
    configs = [resolve(replace(TINY, architecture=architecture, latent_size=size, seed=seed)) for size, seed in ((3, 0), (2, 1))]
    assert_results_agree(*evaluate_in_both_ways(configs, tmp_path))


def test_a_worker_without_the_kernels_of_the_command_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first task: its numbers would be others. Where torch does the work for all, it needs none."""
    data = datasets.load("digits", str(tmp_path), None)
    monkeypatch.setattr("harness.numerics.why_not", lambda: "there is no C++ compiler")
    set_up_worker(data, provenance.program("torch"), Placement("", kernels="torch"))
    with pytest.raises(UserError, match=r"no compiled kernels on \S+ \(there is no C\+\+ compiler\)"):
        set_up_worker(data, provenance.program("compiled"), Placement("", kernels="compiled"))


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("kernels", ["auto", "compiled", "torch"])
def test_the_kernels_are_used_where_they_are_wanted(kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and in evaluation."""
    calls: list[str] = []
    library = compiler.load()
    monkeypatch.setattr(compiler, "load", lambda: calls.append("") or library)
    config, placement = resolve(replace(TINY, architecture="base", width=2)), Placement(str(tmp_path / "data"), kernels=kernels)
    states = run_segment([config], None, 1, placement).states
    trained = len(calls)
    evaluate_group([config], states, placement)
    assert (trained > 0) == (len(calls) > trained) == (kernels != "torch")


def test_transfers_that_cannot_be_measured_together_are_measured_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the memory is too small for all at once: every number is there, and is that of the plain way."""
    from harness import trial

    def too_large(*arguments: object) -> None:
        raise MemoryError("no room")

    configs = [resolve(replace(TINY, architecture="linear", latent_size=size)) for size in (3, 2)]
    stacked, plain = (Placement(str(tmp_path / "data"), trainer=trainer) for trainer in ("stacked", "plain"))
    states = run_segment(configs, None, 2, plain).states
    monkeypatch.setattr(trial, "measure_transfers", too_large)
    one, other = (evaluate_group(configs, states, each) for each in (stacked, plain))
    assert [(numbers(each.metrics), each.curves) for each in one] == [(numbers(each.metrics), each.curves) for each in other]


def test_every_precision_but_the_automatic_one_can_be_computed_with(tmp_path: Path) -> None:
    """bfloat16 gives other numbers than float32, and a finished trial."""
    assert set(PRECISIONS) == set(NAMED_PRECISIONS) - {"auto"}
    config = resolve(replace(TINY, architecture="linear"))
    losses = []
    for precision in PRECISIONS:
        placement = Placement(str(tmp_path / "data"), precision=precision)
        segment = run_segment([config], None, 2, placement)
        (result,) = evaluate_group([config], segment.states, placement)
        assert result.status == "finished"
        losses.append(result.metrics["train/mse"])
    assert len(set(losses)) == len(losses)
    assert losses == pytest.approx([losses[0]] * len(losses), rel=0.01)


def test_a_model_that_cannot_be_built_fails_that_trial_only(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error before the first epoch, such as too little memory, is that trial's result."""
    from harness import models

    def build(shape: models.Shape, config: TrialConfig) -> models.Autoencoder:
        if config.latent_size == 7:
            raise MemoryError("no room")
        return models.build_linear(shape, config)

    monkeypatch.setitem(models.ARCHITECTURES, "linear", replace(models.ARCHITECTURES["linear"], build=build))
    configs = [resolve(replace(TINY, architecture="linear", latent_size=size)) for size in (7, 3)]
    segment = run_segment(configs, None, 2, placement)
    failed, finished = evaluate_group(configs, segment.states, placement)
    assert (failed.reason, finished.status) == ("MemoryError: no room", "finished")


def test_images_that_changed_after_planning_end_the_sweep(placement: Placement) -> None:
    """A worker that reads other images than were planned for says so and trains nothing."""
    with pytest.raises(UserError, match="dataset 'digits' has changed since the sweep was planned"):
        run_segment([resolve(TINY)], None, 1, replace(placement, data_fingerprint="0" * 64))


def test_a_failed_member_is_a_result_with_its_reason_and_files(placement: Placement) -> None:
    """A loss that is not finite gives a failed result, beside its neighbour's finished one."""
    configs = [resolve(replace(TINY, learning_rate=rate)) for rate in (1e38, 5e-3)]
    segment = run_segment(configs, None, 2, placement)
    failed, finished = evaluate_group(configs, segment.states, placement)
    assert (failed.status, finished.status) == ("failed", "finished")
    assert "in epoch" in failed.reason
    assert failed.metrics == {}
    assert {"failure.txt", "model/config.json", "curves/training.csv"} == failed.artifacts.keys()


def test_a_group_that_failed_whole_is_not_said_to_be_transferred_one_by_one(
    placement: Placement, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing to transfer, and nothing to warn of beside the failures."""
    configs = [resolve(replace(TINY, learning_rate=1e38))]
    (failed,) = evaluate_group(configs, run_segment(configs, None, 2, placement).states, placement)
    assert failed.status == "failed"
    assert not caplog.records


def test_an_error_in_the_evaluation_fails_that_trial_only(placement: Placement) -> None:
    """Weights that do not fit the configuration give a failed result with the traceback as a file."""
    config = resolve(TINY)
    segment = run_segment([config], None, 1, placement)
    wrong: TrialConfig = replace(config, latent_size=7)
    failed, finished = evaluate_group([wrong, config], [segment.states[0], segment.states[0]], placement)
    assert failed.status == "failed"
    assert "size mismatch" in failed.reason
    assert b"Traceback" in failed.artifacts["failure.txt"]
    assert finished.status == "finished"


def test_segments_leave_torch_as_it_was(placement: Placement) -> None:
    """Threads, determinism and the kind of products are set for the segment only."""
    before = torch_settings()
    run_segment([resolve(TINY)], None, 1, placement)
    assert torch_settings() == before


def test_a_state_without_epochs_left_is_passed_through(placement: Placement) -> None:
    """Asking for more epochs than the configuration has changes nothing."""
    config = resolve(TINY)
    segment = run_segment([config], None, 99, placement)
    again = run_segment([config], segment.states, 99, placement)
    assert isinstance(again.states[0], train.TrainState)
    assert again.states[0] is segment.states[0]
    assert again.logs == [[]]
