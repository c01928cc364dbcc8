"""Made-up trials of single studies, whose truth is known, and what is said of them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import ortho_group

from harness.about import About
from harness.config import Trial, TrialConfig, TrialRecord
from harness.evidence import Claim, Evidence, gather_evidence
from harness.findings import find
from harness.models import resolve
from harness.tables import summarize, table_axes
from tests.made_up import file_reader, made_up_sweep

Numbers = Callable[[TrialConfig, float], dict[str, float]]
"""From a configuration and noise to metrics."""


def records_of(variants: Sequence[dict[str, Any]], numbers: Numbers, seeds: int = 4, noise: float = 0.01) -> list[TrialRecord]:
    """Every variant from every seed; the noise of a seed is the same for all variants but for a tenth."""
    configs = [resolve(replace(TrialConfig(), **variant, seed=seed)) for seed in range(seeds) for variant in variants]
    return [_record(number, config, numbers, noise) for number, config in enumerate(configs)]


def _record(number: int, config: TrialConfig, numbers: Numbers, noise: float) -> TrialRecord:
    shared, own = (np.random.default_rng(seed).normal() for seed in (config.seed, 1000 + number))
    base = made_up_sweep(("base",), (config.latent_size,), 1, 0.0)[0].metrics
    metrics = {**base, **numbers(config, noise * (shared + 0.1 * own))}
    return TrialRecord(
        f"{number:032x}", Trial(number, config), "finished", {"val/mse": metrics["reconstruction_loss"], **metrics}
    )


def evidence_of(records: Sequence[TrialRecord], *axes: str) -> Evidence:
    """A sweep made ready."""
    evidence = gather_evidence(summarize(records, table_axes(axes, list(records)), len(records)))
    assert evidence is not None
    return evidence


def claims_of(topic: str, records: Sequence[TrialRecord], *axes: str) -> list[Claim]:
    """What is said to a question."""
    return [claim for claim in find(evidence_of(records, *axes)) if claim.topic == topic]


# --- choices


CHANGES: list[dict[str, Any]] = [
    {"latent_size": size, **change}
    for size in (2, 10)
    for change in ({}, {"batch_norm": False}, {"loss": "bce"}, {"batch_norm": False, "loss": "bce"})
]


def choice_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Without batch norm the loss is 1.5 times as high and the accuracy 3 points lower; bce makes no difference."""
    worse = config.batch_norm is False
    loss = 0.02 * (1.5 if worse else 1.0) * math.exp(noise)
    return {"reconstruction_loss": loss, "val/mse": loss, "transfer_accuracy": 0.8 - 0.03 * worse + noise}


# --- the penalty


WEIGHTS: list[dict[str, Any]] = [
    {"latent_size": size, **penalty}
    for size in (5, 10)
    for penalty in (
        {},
        {"decorrelation": 0.01},
        {"decorrelation": 0.1},
        {"decorrelation": 0.1, "decorrelation_kind": "barlow"},
    )
]


def penalty_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Correlation 0.5 falls with the weight, faster with barlow; the loss doubles at the largest weight of either."""
    strength = config.decorrelation * (2 if config.decorrelation_kind == "barlow" else 1)
    loss = 0.01 * (2 if config.decorrelation == 0.1 else 1) * math.exp(noise)
    return {
        "reconstruction_loss": loss,
        "val/mse": loss,
        "max_latent_correlation": 0.5 - strength + noise,
        "transfer_accuracy": 0.8 + noise,
        "latent/max_abs_corr_rotated": 0.05,
        "transfer/rotated_accuracy": 0.81,
        "transfer/whitened_accuracy": 0.79,
        "transfer/linear_probe_accuracy": 0.75,
        "transfer/linear_probe_whitened_accuracy": 0.75,
    }


# --- labels


COUNTS = (10, 20, 50, 100, 200, 500)


def label_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Finetuning overtakes frozen codes at 50 labels, training from scratch both at 200."""
    x = math.log(config.labels)
    return {
        "reconstruction_loss": 0.01,
        "val/mse": 0.01,
        "transfer/labelled_images": min(config.labels, 450),
        "transfer/frozen_accuracy": 0.7 + noise,
        "transfer/finetuned_accuracy": 0.7 + 0.04 * (x - math.log(50)) + 0.7 * noise,
        "transfer/scratch_accuracy": 0.7 + 0.04 * (math.log(200) - math.log(50)) + 0.1 * (x - math.log(200)) + 0.3 * noise,
        "transfer/raw_pixels_accuracy": 0.6,
        "transfer/pca_accuracy": 0.65,
    }


# --- paths, prefixes


def path_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """Clearest at d = 10, nearest at d = 5, worse beyond; arcs a little further off; blended pixels at 2."""
    size = config.latent_size
    return {
        "interpolation/linear_distance": 1 + abs(size - 5) / 20 + noise,
        "interpolation/spherical_distance": 1.05 + abs(size - 5) / 20 + noise,
        "interpolation/blend_distance": 2.0,
        "interpolation/decoded_distance": 0.9,
        "interpolation/linear_confidence": 0.9 - abs(size - 10) / 100 + noise / 10,
        "interpolation/spherical_confidence": 0.9 - abs(size - 10) / 100 + noise / 10,
        "interpolation/blend_confidence": 0.6,
        "interpolation/decoded_confidence": 0.95,
        "interpolation/data_confidence": 0.97,
        "reconstruction_loss": 0.01,
        "val/mse": 0.01,
    }


def prefix_numbers(config: TrialConfig, noise: float) -> dict[str, float]:
    """The loss from k units is 1.2 times that of k units alone."""
    own = {size: 0.05 * math.exp(-0.1 * size) for size in (2, 5, 10)}
    prefixes = {f"prefix/mse_{size}": 1.2 * loss * math.exp(noise) for size, loss in own.items() if size <= config.latent_size}
    loss = own[config.latent_size] * (1.2 if config.prefix else 1.0)
    return {"reconstruction_loss": loss, "val/mse": loss, "floor/pca_mse": loss, **prefixes}


PREFIXES = [{"prefix": True, "latent_size": 10}, *({"latent_size": size} for size in (2, 5, 10))]


# --- searches


def searched() -> list[TrialRecord]:
    """Four trials, two of them confirmed from three seeds: both were 10 % lucky, and the second is really the better one."""
    shared = {"transfer_accuracy": 0.8, "max_latent_correlation": 0.3, "reconstruction_loss": 0.01}
    records = []
    for number in range(4):
        config = resolve(TrialConfig(architecture="linear", latent_size=number + 2))
        trial = Trial(number, config, '{"params": {"latent_size": 2}}')
        records.append(TrialRecord(f"{number:032x}", trial, "finished", {"val/mse": 0.010 + 0.001 * number, **shared}))
    for number, loss in ((0, 0.013), (1, 0.0115)):
        for place in range(3):
            config = replace(records[number].trial.config, seed=1 + place)
            metrics = {**records[number].metrics, "val/mse": loss + 1e-5 * place, "transfer_accuracy": 0.78}
            own = 1_000_000 + 1_000 * number + place
            proposal = json.dumps({"confirms": number, "params": {"latent_size": 2}})
            records.append(TrialRecord(f"{own:032x}", Trial(own, config, proposal), "finished", metrics))
    return records


# --- stability, and the page


def seeds_reader(records: Sequence[TrialRecord], own_units: bool) -> Callable[[str, str], bytes]:
    """Files of a sweep in which all seeds find the same codes, with units in another order or turned at random."""
    rest, by_run = file_reader(records), {record.run_id: record.trial.config for record in records}

    def read_file(run_id: str, path: str) -> bytes:
        if path != "latents/test_codes.npz":
            content: bytes = rest(run_id, path)
            return content
        config = by_run[run_id]
        codes = np.random.default_rng(config.latent_size).normal(size=(80, config.latent_size))
        turned = codes @ ortho_group.rvs(config.latent_size, random_state=config.seed)
        order = np.random.default_rng(config.seed).permutation(config.latent_size)
        buffer = io.BytesIO()
        np.savez(buffer, codes=codes[:, order] if own_units else turned, labels=np.zeros(80))
        return buffer.getvalue()

    return read_file


ABOUT = About("t", "q?", "0" * 16, "r" * 32, "1", "sqlite:///mlflow.db")
