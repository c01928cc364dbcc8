"""What a person sees in a browser: MLflow's pages of a sweep, and its report. With Debian's Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow.tracking import MlflowClient

from tests.support import ROOT

playwright_api = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[browser]"')
expect, sync_playwright = playwright_api.expect, playwright_api.sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SWEEP = (
    *("latent_sweep", "--set", "architecture=base,linear", "--set", "latent_size=2,3,5,8,10", "--seeds", "2", "--epochs", "2"),
    *("--set", "transfer_epochs=3", "--set", "train_size=128", "--set", "draws=2"),
)
START_SECONDS, SEEN_MILLISECONDS = 90, 60_000
expect.set_options(timeout=SEEN_MILLISECONDS)  # charts of a page take their time where all cores are busy


@dataclass(frozen=True)
class Site:
    """A sweep and ``mlflow ui`` beside it.

    Attributes:
        address: Of MLflow's pages.
        folder: In which both were started.
        experiment: Id of the sweep's experiment.
        sweep: Id of its parent run.
        trials: Ids of its trials' runs.
        said: What the sweep's command said at its end.
    """

    address: str
    folder: Path
    experiment: str
    sweep: str
    trials: list[str]
    said: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A small sweep by its command, then ``mlflow ui`` in the same folder, as a user types them."""
    folder = tmp_path_factory.mktemp("site")
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = {
        **own,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "harness.study", *SWEEP, "--device", "cpu"]
    said = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    port = _free_port()
    words = [str(Path(sys.executable).with_name("mlflow")), "ui", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/health", server)
            client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
            experiment = client.get_experiment_by_name("latent_sweep")
            assert experiment is not None
            runs = client.search_runs([experiment.experiment_id])
            (sweep,) = [run.info.run_id for run in runs if run.data.tags["harness.kind"] == "sweep"]
            trials = [run.info.run_id for run in runs if run.data.tags["harness.kind"] == "trial"]
            yield Site(address, folder, experiment.experiment_id, sweep, trials, said)
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, "mlflow ui has ended"
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("mlflow ui does not answer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Watch:
    """What a page says on its console, and whom it asks for something."""

    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def _open(browser: Browser, address: str, **more: str) -> tuple[Page, Watch]:
    page, watch = browser.new_page(viewport={"width": 1400, "height": 1000}, **more), Watch()  # type: ignore[arg-type]
    page.set_default_timeout(SEEN_MILLISECONDS)
    page.on("console", lambda message: watch.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: watch.errors.append(str(error)))
    page.on("request", lambda request: watch.asked.append(request.url))
    page.goto(address)
    return page, watch


def _keep(page: Page, name: str) -> None:
    """Leaves a picture of the page where ``SCREENSHOTS`` says, for people."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def _local(site: Site, address: str) -> str:
    """An address that the command has printed, at the port of this server."""
    return address.replace("http://127.0.0.1:5000", site.address)


def _printed(site: Site, purpose: str) -> str:
    """The address that stands before a purpose among the last lines of the command."""
    (line,) = [line for line in site.said.splitlines() if line.endswith(f"({purpose})") or purpose in line]
    return _local(site, line.split()[0])


def test_the_saved_view_opens_with_the_headlines_and_the_charts(browser: Browser, site: Site) -> None:
    """At the address that the command prints: columns of the table, scatter plots, parallel coordinates, curves."""
    page, _ = _open(browser, _printed(site, "its trials, with charts"))
    for name in ("reconstruction_loss", "max_latent_correlation", "transfer_accuracy"):
        expect(page.locator("svg.main-svg text", has_text=name).first).to_be_visible()  # an axis of a scatter plot
    expect(page.get_by_text("Parallel Coordinates").first).to_be_visible()
    _keep(page, "mlflow-view")
    page.close()
    page, _ = _open(browser, _printed(site, "its trials, with charts").replace("compareRunsMode=CHART&", ""))
    for name in ("val/mse", "reconstruction_loss"):  # the others stand further to the right
        expect(page.get_by_role("columnheader", name=name).first).to_be_visible()
    _keep(page, "mlflow-table")
    page.close()


def test_parent_and_children_are_in_the_table_of_runs(browser: Browser, site: Site) -> None:
    """Under names that say what they are."""
    page, _ = _open(browser, f"{site.address}/#/experiments/{site.experiment}/runs?workflowType=machine_learning")
    expect(page.get_by_text("latent_sweep on digits").first).to_be_visible()
    page.get_by_role("gridcell", name="latent_sweep on digits").locator("button, [role=img], svg").first.click()
    expect(page.get_by_text("base d=2 seed=0").first).to_be_visible()
    _keep(page, "mlflow-runs")
    page.close()


def test_the_best_runs_are_compared_side_by_side(browser: Browser, site: Site) -> None:
    """At the address that the command prints."""
    page, _ = _open(browser, _printed(site, "best side by side"))
    expect(page.get_by_text("Comparing 5 Runs").first).to_be_visible()
    expect(page.get_by_text("latent_size").first).to_be_visible()
    page.wait_for_timeout(2000)
    _keep(page, "mlflow-compare")
    page.close()


def test_the_verdict_stands_on_the_sweeps_page(browser: Browser, site: Site) -> None:
    """As the description of the parent run, with a link to the report."""
    page, _ = _open(browser, _printed(site, "the sweep"))
    expect(page.get_by_text("How many latent dimensions are needed?").first).to_be_visible()
    _keep(page, "mlflow-sweep")
    page.close()


def test_the_interpolation_picture_opens_and_a_file_comes_down_whole(browser: Browser, site: Site) -> None:
    """The bytes that the page gives are those on the disk."""
    run = site.trials[0]
    page, _ = _open(browser, f"{site.address}/#/experiments/{site.experiment}/runs/{run}/artifacts/interpolation/strips.png")
    expect(page.get_by_role("img", name="interpolation/strips.png")).to_be_visible()
    _keep(page, "mlflow-strips")
    with page.expect_download() as download:
        page.locator('button[data-component-id*="artifactview"]').first.click()
    (stored,) = site.folder.glob(f"mlruns/*/{run}/artifacts/interpolation/strips.png")
    assert Path(download.value.path()).read_bytes() == stored.read_bytes()
    page.close()


def test_the_report_opens_from_the_artifacts_of_the_sweep(browser: Browser, site: Site) -> None:
    """In MLflow's own frame."""
    page, _ = _open(browser, f"{site.address}/#/experiments/{site.experiment}/runs/{site.sweep}/artifacts/report.html")
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_role("heading", name="Autoencoding")).to_be_visible()
    _keep(page, "mlflow-report")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_asks_nobody_and_says_nothing_on_the_console(browser: Browser, site: Site, scheme: str) -> None:
    """Opened from the path that the command prints; its ground follows the reader's choice."""
    (path,) = [line.partition(": ")[2] for line in site.said.splitlines() if line.startswith("The report: ")]
    address = (site.folder / path).as_uri()
    page, watch = _open(browser, address, color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
    assert watch.errors == []
    assert [each for each in watch.asked if each != address and not each.startswith("data:")] == []
    _keep(page, f"report-{scheme}")
    page.close()


def test_the_table_of_trials_is_sorted_by_a_click(browser: Browser, site: Site) -> None:
    """As numbers, up and then down, and said to those who cannot see it."""
    (path,) = site.folder.glob(f"mlruns/*/{site.sweep}/artifacts/report.html")
    page, watch = _open(browser, path.as_uri())
    head = page.locator("#trials th", has_text="reconstruction_loss")
    cells = page.locator("#trials tbody td:nth-child(4)")

    def shown() -> list[float]:
        return [float(cell.get_attribute("data-value") or "nan") for cell in cells.all()]

    before = shown()
    head.get_by_role("button").click()
    assert shown() == sorted(before)
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").press("Enter")
    assert shown() == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    assert watch.errors == []
    page.close()


def test_the_report_fits_a_phone_and_paper(browser: Browser, site: Site) -> None:
    """Nothing wider than the screen but what scrolls by itself; on paper no link that only a screen can follow."""
    (path,) = site.folder.glob(f"mlruns/*/{site.sweep}/artifacts/report.html")
    page, _ = _open(browser, path.as_uri())
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()
    expect(page.locator("figcaption.downloads").first).to_be_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()
