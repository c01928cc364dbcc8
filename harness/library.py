"""Finds and reads study files. A study file is Python and is executed. Loads neither torch nor MLflow."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import StudyConfig, TrialConfig
from harness.rules import UserError, exists_as, leads_outside, shown, unknown, user_path

SearchSpace = Callable[[Any], TrialConfig]
"""From an Optuna trial to a configuration."""


@dataclass(frozen=True)
class StudyFile:
    """A study and the file that declares it.

    Attributes:
        study: The declaration, named by the file.
        search_space: The file's function of that name, where it has one.
        path: The file.
    """

    study: StudyConfig
    search_space: SearchSpace | None
    path: Path


def list_studies() -> dict[str, Path]:
    """The studies that can be run by name: those of ``studies/`` here, then those that come with the harness."""
    beside = Path(__file__).resolve().parent
    found: dict[str, Path] = {}
    for folder in (beside / "studies", beside.parent / "studies", Path.cwd() / "studies"):
        found.update({path.stem: path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")})
    return dict(sorted(found.items()))


def load_study(name_or_path: str) -> StudyFile:
    """Reads a study by name or by path.

    Raises:
        UserError: if there is no such study, or if its file raises or declares none.
    """
    path = _find(name_or_path)
    module = _execute(path)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, StudyConfig):
        raise UserError(f"{path} declares no study: it needs STUDY = StudyConfig(...), imported from harness.config")
    search_space = getattr(module, "search_space", None)
    if study.sampler != "grid" and not callable(search_space):
        raise UserError(
            f"{path}: the sampler is {study.sampler!r}, so the file needs a function search_space(trial) -> TrialConfig"
        )
    return StudyFile(replace(study, name=study.name or path.stem), search_space, path)


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith(".py"):
        path = user_path(name_or_path)
        if not exists_as(path, "file"):
            raise UserError(
                f"there is no study file {name_or_path}: give the path of one, or a name from python -m harness.study --list"
            )
        return path.resolve()
    if "/" in name_or_path or "\\" in name_or_path:
        raise UserError(
            f"{shown(name_or_path)} is no study: allowed are a name from python -m harness.study --list, "
            "or the path of a file that ends in .py"
        )
    return _find_by_name(name_or_path)


def _find_by_name(name: str) -> Path:
    """A name stands for a file of its own folder: only a path, which the user writes out, leads anywhere else."""
    studies = list_studies()
    if name not in studies:
        raise unknown("study", name, studies, "or the path of a study file")
    path = studies[name]
    if leads_outside(path, path.parent):
        raise UserError(
            f"study {name!r} is {path}, a link that leads out of its folder: give the path of the file that it leads to"
        )
    if not exists_as(path, "file"):
        raise UserError(f"study {name!r} is {path}, which is no file: make it one, or take it out")
    return path


def _execute(path: Path) -> Any:
    name = f"harness_study_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        # Not by the loader, which leaves a cache beside the file and believes it after a change in the same second.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - a study file is a program
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a study file is the user's code: whatever it raises is theirs to read
        raise UserError(f"the study file raises {_where(error, path)}") from None
    return module


def _where(error: BaseException, path: Path) -> str:
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{what} ({path}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    last = f"{path}, line {frames[-1].lineno}: {frames[-1].line}" if frames else str(path)
    return f"{what} ({last})"
