"""Who is compared, and on what work."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import Job
from harness import datasets, options, plan
from harness.config import StudyConfig, TrialConfig
from harness.library import load_study
from harness.rules import UserError, unknown

ROOT = Path(__file__).resolve().parent.parent
STUDY = "latent_sweep"


@dataclass(frozen=True)
class Contestant:
    """One way to run the sweep.

    Attributes:
        title: What it is, for tables.
        packages: What it needs beside the harness.
        side_by_side: Whether it runs a trial on every core, each with one thread, or one trial with torch's default threads.
    """

    title: str
    packages: tuple[str, ...] = ()
    side_by_side: bool = False


OURS, PLAIN = "ours", "plain"

CONTESTANTS: dict[str, Contestant] = {
    OURS: Contestant("this harness", side_by_side=True),
    PLAIN: Contestant("Optuna + MLflow"),
    "lightning": Contestant("PyTorch Lightning", ("lightning",)),
    "ray": Contestant("Ray Tune", ("ray", "tensorboardX"), side_by_side=True),
}


@dataclass(frozen=True)
class Settings:
    """The work, the same for everyone.

    Attributes:
        base: The fields that do not vary. The rate and its schedule are the harness's; the others have a constant one.
        architectures: By name.
        latent_sizes: Dimensions of the code.
        seeds: How many.
        data_root: Folder of the downloaded datasets.
    """

    base: TrialConfig
    architectures: tuple[str, ...]
    latent_sizes: tuple[int, ...]
    seeds: int
    data_root: str

    @property
    def trials(self) -> int:
        """How many there are to train."""
        return len(self.architectures) * len(self.latent_sizes) * self.seeds

    def job(self, tracking_uri: str) -> Job:
        """The work as the scripts take it."""
        grid = (list(self.architectures), list(self.latent_sizes), list(range(self.seeds)))
        return Job(self.base.to_params(), *grid, tracking_uri=tracking_uri, data_root=self.data_root)

    def words(self, tracking_uri: str) -> list[str]:
        """The work as the harness's command line says it."""
        usual = load_study(STUDY).study.base.to_params()
        fields = {name: text for name, text in self.base.to_params().items() if text != usual[name]}
        fields |= {"architecture": ",".join(self.architectures), "latent_size": ",".join(map(str, self.latent_sizes))}
        sets = [word for name, text in fields.items() for word in ("--set", f"{name}={text}")]
        where = ["--device", "cpu", "--data-root", self.data_root, "--tracking-uri", tracking_uri]
        return [STUDY, *sets, "--seeds", str(self.seeds), *where]


def check_contestants(names: Sequence[str]) -> None:
    """Checks that there are such contestants and that each can run.

    Raises:
        UserError: if there is none of a name, or if a package is missing; says what to install.
    """
    for name in names:
        if name not in CONTESTANTS:
            raise unknown("contestant", name, CONTESTANTS)
    if OURS not in names:
        raise UserError(f"--contestants is {','.join(names)!r}: {OURS!r} has to be among them, all are compared with it")
    missing = {name: [each for each in CONTESTANTS[name].packages if find_spec(each) is None] for name in names}
    lacking = [name for name in names if missing[name]]
    if lacking:
        packages = ", ".join(each for name in lacking for each in missing[name])
        others = ",".join(name for name in names if not missing[name])
        raise UserError(
            f"{' and '.join(lacking)} cannot be run without {packages}: "
            f'pip install -e ".[benchmarks]", or leave out what needs them with --contestants {others}'
        )


def read_settings(
    dataset: str, data_root: str | None, architectures: str, latent_sizes: str, seeds: int | None, fields: dict[str, str]
) -> Settings:
    """Puts what the user gave over what the study has, and fetches the images.

    Raises:
        UserError: if a value is not one that it may be.
    """
    words = [STUDY, f"--dataset={dataset}", *(f"--set={name}={text}" for name, text in fields.items())]
    words += [f"--set={name}={text}" for name, text in (("architecture", architectures), ("latent_size", latent_sizes)) if text]
    request = options.parse(words)
    study = plan.check(load_study(STUDY), request)
    plan.grid_trials(study)  # for its checks of the architectures
    root = datasets.data_root(data_root)
    datasets.prepare(study.base.dataset, root)
    return Settings(
        base=study.base,
        architectures=_axis(study, "architecture"),
        latent_sizes=_axis(study, "latent_size"),
        seeds=seeds or study.seeds,
        data_root=root,
    )


def _axis(study: StudyConfig, name: str) -> tuple[Any, ...]:
    return tuple(study.grid.get(name, (getattr(study.base, name),)))


def default_threads(names: Sequence[str]) -> int:
    """Threads that torch takes in a fresh process; loads all that the contestants will, so that the first has no colder disk."""
    packages = ["mlflow", "optuna", "torchvision", *(package for name in names for package in CONTESTANTS[name].packages)]
    code = f"import torch, {', '.join(packages)}; print(torch.get_num_threads())"
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment())
    return int(ran.stdout.split()[-1])


def environment() -> dict[str, str]:
    """On the CPU, with no usage reports, and with a token of Ray's own that it need not leave in the home folder."""
    return {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUDA_VISIBLE_DEVICES": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
