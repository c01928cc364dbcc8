"""The report's sentences against numbers worked out a second way: from the table of trials, by pandas, SciPy and statsmodels.

Nothing of the harness is in the second way: not how it gathers trials into lines and blocks, nor its statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.config import Trial, TrialConfig, TrialRecord
from harness.evidence import Claim, gather_evidence
from harness.findings import find
from harness.measures import METRICS
from harness.tables import summarize, table_axes, trials_frame
from tests.made_up import made_up_sweep
from tests.support import ROOT

Array = npt.NDArray[np.float64]

MNIST_TABLE = ROOT / "docs" / "latent_sweep_mnist_trials.csv"
"""Columns of the ``trials.csv`` of ``python -m harness.study latent_sweep --dataset mnist``."""

MODES = ("frozen", "finetuned", "scratch")


def records_of(frame: pd.DataFrame) -> Iterator[TrialRecord]:
    """The trials of a table of text cells."""
    for _, row in frame.iterrows():
        cells = {str(name): str(cell) for name, cell in row.items() if cell != ""}
        fields = {
            name: cell.lower() if cell in ("True", "False") else cell for name, cell in cells.items() if name not in METRICS
        }
        metrics = {name: float(cells[name]) for name in METRICS if name in cells}
        config = TrialConfig.from_params(fields)
        yield TrialRecord(cells["run_id"], Trial(int(cells["trial"]), config), "finished", metrics)


@pytest.fixture(scope="module", params=["made up", "mnist"])
def sweep(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, list[Claim]]:
    """The trials of three seeds, three architectures and seven sizes as a table, and what is said of them."""
    content = (
        trials_frame(made_up_sweep()).to_csv(index=False).encode() if request.param == "made up" else MNIST_TABLE.read_bytes()
    )
    records = list(records_of(pd.read_csv(BytesIO(content), dtype=str, keep_default_na=False)))
    evidence = gather_evidence(summarize(records, table_axes(("architecture", "latent_size"), records), len(records)))
    assert evidence
    return pd.read_csv(BytesIO(content)), find(evidence)


def grid_of(frame: pd.DataFrame, metric: str, architecture: str) -> pd.DataFrame:
    """A row a seed, a column a latent size."""
    return frame[frame["architecture"] == architecture].pivot(index="seed", columns="latent_size", values=metric)


def best_of(frame: pd.DataFrame) -> str:
    """The architecture whose validation loss is lowest, as a geometric mean."""
    return str(np.log(frame["val/mse"]).groupby(frame["architecture"]).mean().idxmin())


def about(claims: list[Claim], topic: str) -> list[Claim]:
    """Those on a question."""
    return [claim for claim in claims if claim.topic == topic]


def bends(sizes: Array, curves: Array) -> Array:
    """Where two lines that meet come nearest to each curve, (n, m), by trying two thousand places."""
    places = np.linspace(sizes[1], sizes[-2], 2001)
    at = places[:, None]
    basis = np.stack([np.ones_like(sizes) + 0 * at, np.minimum(sizes, at), np.maximum(sizes, at)], axis=2)
    rest = np.eye(len(sizes)) - basis @ np.linalg.pinv(basis)
    squares = np.square(rest @ curves.T).sum(axis=1)
    found: Array = places[squares.argmin(axis=0)]
    return found


def test_where_the_loss_bends(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """Of every architecture, with the interval from all 27 ways to draw three seeds out of three."""
    frame, claims = sweep
    found = {
        name: claim for claim in about(claims, "dimensions") for name in frame["architecture"].unique() if name in claim.text
    }
    assert found.keys() == set(frame["architecture"])
    for name, claim in found.items():
        table = grid_of(frame, "reconstruction_loss", name)
        sizes, losses = table.columns.to_numpy(float), table.to_numpy()
        draws = [losses[list(rows)].mean(axis=0) for rows in itertools.product(range(3), repeat=3)]
        at, *again = bends(sizes, np.array([losses.mean(axis=0), *draws]))
        reach = stats.t.ppf(0.975, 2) * np.std(again) * math.sqrt(3 / 2)
        low, high = max(sizes[0], at - reach), min(sizes[-1], at + reach)
        assert [claim.numbers[key] for key in ("knee", "low", "high")] == pytest.approx([at, low, high], abs=0.1)
        first = next(size for size in table.columns if size >= at)
        assert claim.numbers["size"] == first
        if first != table.columns[-1]:
            rest = 1 - table[table.columns[-1]] / table[first]
            assert claim.numbers["left"] == pytest.approx(rest.mean())


def test_which_architecture_is_best_and_by_how_much(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """Chosen by the validation loss, compared by the test split's: ratios of geometric means, seeds paired, Holm's correction."""
    frame, claims = sweep
    (claim,) = about(claims, "architecture")
    best = best_of(frame)
    assert f"By the validation loss {best} is best" in claim.text
    others = [name for name in frame["architecture"].unique() if name != best]
    logs = {name: np.log(grid_of(frame, "reconstruction_loss", name)).mean(axis=1) for name in (best, *others)}
    tests = {name: stats.ttest_rel(logs[best], logs[name]).pvalue for name in others}
    corrected = dict(zip(others, multipletests(list(tests.values()), method="holm")[1], strict=True))
    for name in others:
        assert claim.numbers[f"ratio to {name}"] == pytest.approx(math.exp((logs[best] - logs[name]).mean()))
        shown = "p < 0.001" if corrected[name] < 0.001 else f"p = {corrected[name]:.2g}"
        assert shown in claim.text
    assert claim.is_resolved == all(value < 0.05 for value in corrected.values())


def test_where_no_learning_at_all_is_as_good(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """The best architecture against PCA: -1 where its loss is lower, 1 where it is higher, 0 where three seeds do not tell."""
    frame, claims = sweep
    (claim,) = about(claims, "floors")
    loss, floor = (grid_of(frame, name, best_of(frame)) for name in ("reconstruction_loss", "floor/pca_mse"))
    differences = np.log(loss / floor)
    p_values = multipletests(stats.ttest_1samp(differences, 0).pvalue, method="holm")[1]
    expected = [int(np.sign(mean)) if p < 0.05 else 0 for mean, p in zip(differences.mean(), p_values, strict=True)]
    assert claim.numbers == {f"d = {size}": sign for size, sign in zip(loss.columns, expected, strict=True)}


def test_whether_the_latents_are_redundant(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """Spearman's correlation of the latent size with how far the largest correlation is beyond chance."""
    frame, claims = sweep
    for claim in about(claims, "redundancy"):
        (name,) = (each for each in frame["architecture"].unique() if f" of {each} " in claim.text)
        own = frame[frame["architecture"] == name]
        beyond = own["max_latent_correlation"] - own["latent/max_abs_corr_null95"]
        assert claim.numbers["rho"] == pytest.approx(stats.spearmanr(own["latent_size"], beyond).statistic)


def test_whether_midpoints_look_like_data(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """D = 20 against d = 10, seed by seed."""
    frame, claims = sweep
    (claim,) = about(claims, "interpolation")
    table = grid_of(frame, "interpolation/manifold_distance", best_of(frame))
    assert claim.numbers["difference"] == pytest.approx((table[20] - table[10]).mean())
    assert claim.numbers["p"] == pytest.approx(stats.ttest_rel(table[20], table[10]).pvalue, nan_ok=True)


def test_whether_the_codes_are_of_use(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """The latent size of the highest accuracy, and how it compares with the raw pixels: corrected, for the size was chosen."""
    frame, claims = sweep
    smallest, pixels = about(claims, "labels")
    table = grid_of(frame, "transfer/frozen_accuracy", best_of(frame))
    best = table.mean().idxmax()
    assert smallest.numbers["best"] == best
    losses = table[best].to_numpy()[:, None] - table.to_numpy()
    near = [size for size, lost in zip(table.columns, losses.mean(axis=0), strict=True) if lost < 0.02 and size <= best]
    assert smallest.numbers["size"] >= near[0]
    gains = table - grid_of(frame, "transfer/raw_pixels_accuracy", best_of(frame))
    corrected = dict(zip(gains.columns, multipletests(stats.ttest_1samp(gains, 0).pvalue, method="holm")[1], strict=True))
    assert pixels.numbers["gain"] == pytest.approx(gains[best].mean())
    assert pixels.numbers["p"] == pytest.approx(corrected[best])


def test_how_the_encoder_is_best_used(sweep: tuple[pd.DataFrame, list[Claim]]) -> None:
    """Mean accuracy over seeds and sizes of each way."""
    frame, claims = sweep
    means = {mode: grid_of(frame, f"transfer/{mode}_accuracy", best_of(frame)).to_numpy().mean() for mode in MODES}
    claim = about(claims, "modes")[0]
    assert {mode: claim.numbers[mode] for mode in MODES} == pytest.approx(means)
    assert f"{max(means, key=lambda mode: means[mode])} is best" in claim.text
