"""How a command ends: with an exit code, and never with a traceback that a user can do something about."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import INTERRUPTED, NOT_ALL, WRONG_INPUT, run_command
from harness.garbage import FEWEST_NEW
from harness.rules import UserError
from tests.support import ROOT


def ends(error: BaseException) -> int:
    """A command that raises."""

    def command() -> int:
        raise error

    return run_command(command, lambda: "interrupted: go on")


def test_a_commands_own_exit_code_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is said."""
    assert run_command(lambda: 1, lambda: "") == 1
    assert capsys.readouterr() == ("", "")


def test_wrong_input_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the names in it are; exit code 2."""
    assert ends(UserError("no such\n\x1b[31mstudy")) == WRONG_INPUT == 2
    assert capsys.readouterr() == ("", "error: no such \\x1b[31mstudy\n")


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 130, as shells have it."""
    assert ends(KeyboardInterrupt()) == INTERRUPTED == 130
    assert capsys.readouterr() == ("", "interrupted: go on\n")


def test_what_a_user_can_do_nothing_about_is_not_hidden() -> None:
    """It is a fault of the harness, with its traceback."""
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    """As with ``... --csv | head``: a real pipe whose other end is closed."""
    code = "import sys; from harness.commands import run_command; sys.exit(run_command(lambda: print('x' * 10**6) or 0, str))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (NOT_ALL, b"")


def test_a_program_seldom_searches_for_garbage_and_ends_without() -> None:
    """Also the process that workers are forks of; the exit code is the command's."""
    code = """
import atexit, gc
atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 1000))
"""
    program = "from harness.commands import run_as_program; run_as_program(lambda: 3)"
    for last, code_at_end in ((program, 3), ("import harness.forks", 0)):
        ran = subprocess.run([sys.executable, "-c", code + last], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout, ran.stderr) == (code_at_end, f"{FEWEST_NEW} True\n", "")


def test_a_program_that_has_loaded_torchs_compiler_says_nothing_at_its_end() -> None:
    """Part of which would list all its objects if they were not freed."""
    pytest.importorskip("triton")
    program = (
        "from harness.garbage import search_not_at_end; search_not_at_end(); import sys, torch._dynamo; sys.modules['triton']"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_program_closes_its_database(tmp_path: Path, empty_store: Path) -> None:
    """All that was written is in the one file then, though no last search for garbage has closed it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    program = """
from harness.commands import run_as_program
from harness.runs import open_client
run_as_program(lambda: len(open_client("sqlite:///mlflow.db").create_experiment("new")) - 1)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]
