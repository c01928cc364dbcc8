"""How a command ends: its exit code, and one line on what stopped it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from harness.garbage import search_not_at_end, search_seldom
from harness.rules import UserError, one_line, without_passwords

DONE, NOT_ALL, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. ``NOT_ALL``: the command came to its end, and not all of what it was to do is as it should be."""


def run_command(command: Callable[[], int], interrupted: Callable[[], str]) -> int:
    """Runs a command, and turns what a user can do something about into a line on stderr.

    Args:
        command: Gives the exit code.
        interrupted: Gives what to say after Ctrl-C or SIGTERM.
    """
    try:
        return command()
    except UserError as error:
        code, line = WRONG_INPUT, f"error: {without_passwords(one_line(str(error)))}"
    except BrokenPipeError:  # such as `... | head`: nobody reads on, and what Python writes at its end would say so again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_ALL
    except KeyboardInterrupt:
        code, line = INTERRUPTED, interrupted()
    sys.stderr.write(f"{line}\n")
    return code


def run_as_program(main: Callable[[], int]) -> NoReturn:
    """What ``python -m`` does: runs a command in a process that is for nothing else, and ends it with the exit code."""
    search_seldom()
    search_not_at_end()
    sys.exit(main())
