"""The shape of the project: imports go down only, each outside library has one owner, and the documents are true."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.datasets import DATASETS
from harness.executors import EXECUTORS
from harness.measures import METRICS
from harness.models import ARCHITECTURES
from harness.samplers import SAMPLERS
from tests.support import ROOT

LEVELS = (
    {"rules", "disk", "garbage", "compiler", "parcels"},
    {"commands", "forks", "config", "downloads", "arrays", "folders", "recorded", "workers", "server", "lowering"},
    {
        "datasets",
        "models",
        "latents",
        "floors",
        "interpolation",
        "transfer",
        "kernels",
        "optimizers",
        "statistics",
        "figures",
        "ray_executor",
        "processes",
        "groups",
        "options",
        "library",
        "display",
        "tracker",
        "store_errors",
        "journal",
        "provenance",
        "interrupts",
        "costs",
        "pareto",
        "regularizers",
        "complete",
        "rotations",
        "samplers",
        "about",
        "views",
        "sensitivity",
        "where",
    },
    {
        "splits",
        "agreement",
        "convolutions",
        "search",
        "store",
        "outage",
        "numerics",
        "executors",
        "wording",
        "saved",
        "compare_options",
        "confirmation",
        "crossings",
    },
    {"train", "runs", "claims", "optuna_study", "stacks"},
    {"transfer_stack", "reader"},
    {"material", "train_stack", "checkpoints", "track"},
    {"evaluation", "replay"},
    {"artifacts", "measures"},
    {"plan", "trial", "tables", "comparison"},
    {"lines", "rounds", "sweeps"},
    {"ahead", "evidence", "pictures", "contrasts", "differences", "collect", "retrain"},
    {
        "loss_findings",
        "code_findings",
        "label_findings",
        "choice_findings",
        "crossing_findings",
        "path_findings",
        "penalty_findings",
        "prefix_findings",
        "search_findings",
        "stability_findings",
        "sheets",
        "verify",
    },
    {"findings", "sections", "study_charts", "comparison_page", "reproduction"},
    {"report_page", "study_sections", "formats"},
    {"reporting"},
    {"sweep"},
    {"closing"},
    {"study", "report", "compare", "reproduce"},
)
"""A module imports from lower levels only."""

OWNERS = {
    "mlflow": {"runs"},
    "sqlalchemy": {"runs"},
    "optuna": {"samplers", "search", "sensitivity", "optuna_study"},
    "plotly": {"sensitivity"},
    "matplotlib": {"figures"},
    "rich": {"display"},
    "torchvision": {"downloads"},
    "sklearn": {"datasets"},
    "scipy": {"agreement", "statistics"},
    "statsmodels": {"statistics"},
    "jinja2": {"report_page"},
    "pandas": {"tables"},
    "PIL": {"figures", "folders"},
    "safetensors": {"saved"},
    "ray": {"ray_executor"},
    "sqlite3": {"store", "reader", "where"},
}
"""The modules that may know an outside library."""

FORBIDDEN = re.compile(
    r"(torch|joblib|marshal|dill|cloudpickle|pickle|pd|pandas)\.(load|loads|read_pickle|Unpickler)|(builtins\.)?(eval|exec)"
)
"""Calls that execute what they read, or can."""

EXECUTES = {("library", "_execute"): ["exec"]}
"""The one place that executes anything: a study file, which is a program of the user's."""

MODULES = sorted(path for path in (ROOT / "harness").glob("*.py") if path.stem != "__init__")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md")])


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def executing_calls_of(path: Path) -> dict[tuple[str, str], list[str]]:
    """The calls of a file that can execute what they read, by module and function; ``""`` outside of any."""
    tree = ast.parse(path.read_text())
    owners = {id(call): each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) for call in ast.walk(each)}
    found: dict[tuple[str, str], list[str]] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        unpickles = any(each.arg == "allow_pickle" and ast.unparse(each.value) != "False" for each in call.keywords)
        if FORBIDDEN.fullmatch(ast.unparse(call.func)) or unpickles:
            found.setdefault((path.stem, owners.get(id(call), "")), []).append(ast.unparse(call.func))
    return found


def level_of(name: str) -> int:
    """The level on which a module stands."""
    return next(number for number, names in enumerate(LEVELS) if name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down_only(path: Path) -> None:
    """Never up and never sideways."""
    own = {name.split(".")[1] for name in imports_of(path) if name.startswith("harness.")} - {"__version__"}
    assert {name for name in own if level_of(name) >= level_of(path.stem)} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_outside_libraries_have_owners(path: Path) -> None:
    """Only its owner imports an outside library."""
    known = {name.partition(".")[0] for name in imports_of(path)} & OWNERS.keys()
    assert {name for name in known if path.stem not in OWNERS[name]} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_but_a_study_file_is_executed(path: Path) -> None:
    """No file of the package unpickles, evaluates or executes what it reads, but for the reader of study files."""
    assert executing_calls_of(path) == {place: calls for place, calls in EXECUTES.items() if place[0] == path.stem}
    assert not {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle"} & imports_of(path)


@pytest.mark.parametrize(
    "call", ["torch.load(file)", "pickle.loads(data)", "np.load(file, allow_pickle=True)", "eval(text)", "exec(text)"]
)
def test_a_call_that_executes_is_seen(call: str, tmp_path: Path) -> None:
    """Wherever it stands; reading without pickle is none."""
    (tmp_path / "one.py").write_text(f"def read():\n    return {call}\n")
    assert executing_calls_of(tmp_path / "one.py") == {("one", "read"): [call.partition("(")[0]]}
    (tmp_path / "one.py").write_text("import numpy as np\nnp.load('a.npz', allow_pickle=False)\nmodel.eval()\n")
    assert executing_calls_of(tmp_path / "one.py") == {}


def test_study_files_import_the_configuration_only() -> None:
    """A study can be read, listed and checked without any library; a search space may name the type of its argument."""
    for path in (ROOT / "studies").glob("*.py"):
        assert {name for name in imports_of(path) if not name.startswith(("harness.config", "typing"))} == set(), path.name


def test_importing_any_module_does_no_work() -> None:
    """No thread, no file and no output comes of importing all of them."""
    names = ", ".join(f"harness.{path.stem}" for path in MODULES)
    code = f"import os, threading; before = os.listdir(); import {names}; print(threading.active_count(), before == os.listdir())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("1 True\n", "")


def test_training_needs_neither_mlflow_nor_optuna() -> None:
    """A trial runs where neither is installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('mlflow', 'optuna', 'rich', 'platformdirs', 'filelock', 'torchvision')))\n"
        "from harness.config import Placement, TrialConfig\n"
        "from harness import models, trial\n"
        "config = models.resolve(TrialConfig(architecture='linear', epochs=1, transfer_epochs=1, draws=1, train_size=64))\n"
        "segment = trial.run_segment([config], None, 1, Placement('.'))\n"
        "print(trial.evaluate_group([config], segment.states, Placement('.'))[0].status)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "finished\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link and picture of a document exists."""
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    assert [each for each in targets if "://" not in each and not (document.parent / each).exists()] == []


def test_the_readme_has_the_two_commands_and_ci_types_them() -> None:
    """What the README says to type is what is tested."""
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("pip install -e . && python -m harness.study latent_sweep", 'pip install -e ".[test]" && python -m pytest'):
        assert command in readme
    assert 'pip install -e ".[test]" && python -m pytest' in ci


def test_the_architecture_has_the_same_levels() -> None:
    """Its table names every module, in the row of its level."""
    rows = re.findall(r"^\| (\d+) \| (`.*) \|$", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.MULTILINE)
    assert [{*re.findall(r"`(\w+)`", names)} for _, names in rows] == list(LEVELS)
    assert [int(number) for number, _ in rows] == list(range(len(LEVELS)))


def test_the_readme_names_everything_that_can_be_chosen() -> None:
    """Architectures, datasets, executors, samplers and the files of the package."""
    readme = (ROOT / "README.md").read_text()
    names = [*ARCHITECTURES, *DATASETS, *EXECUTORS, *SAMPLERS, *(path.name for path in MODULES)]
    assert [name for name in names if not re.search(rf"(`|harness/){re.escape(name)}(`|:PATH|\s)", readme)] == []


def test_the_architecture_page_names_every_metric() -> None:
    """Each number that is logged is defined there."""
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert [name for name in METRICS if name not in page] == []


def test_the_readmes_commands_are_understood() -> None:
    """Every command line of the harness in the documents passes its parser."""
    from harness import compare_options, options, reproduce

    parsers = {"study": options.parse, "compare": compare_options.parse, "reproduce": reproduce.parse}
    for document in DOCUMENTS:
        for module, line in re.findall(r"^ *python -m harness\.(\w+) (.*)$", document.read_text(), flags=re.MULTILINE):
            words = shlex.split(line.partition("  #")[0])
            if module in parsers and "--help" not in words:
                parsers[module](words)


def test_lower_bounds_are_met_by_the_constraints() -> None:
    """Every dependency has a lower bound, and an exact version in constraints.txt that is at least that."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for requirement in map(Requirement, wanted):
        if requirement.name == "harness":
            continue
        assert any(each.operator == ">=" for each in requirement.specifier), requirement
        assert pinned[requirement.name] in requirement.specifier, requirement
