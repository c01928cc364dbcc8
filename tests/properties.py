"""How a property is tried: on many values, none of which may end in another exception than the one that is meant for users."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.rules import UserError, one_line

EXAMPLES = [100, pytest.param(1_000, marks=pytest.mark.slow)]
"""How many examples a property is tried on: some in the fast suite, many in the slow one."""

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)
"""With nulls, surrogates, escapes and line breaks."""


def for_all(count: int, values: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Tries a check on so many values: the same ones every time, or others where ``OTHER_EXAMPLES`` is set."""
    of = settings(max_examples=count, suppress_health_check=list(HealthCheck))
    of(given(values)(check))()


def outcome(make: Callable[..., Any], *arguments: Any, **fields: Any) -> Any:
    """What a call gives; ``None`` where it refuses with a message that is one line when it is printed."""
    result, message = None, ""
    try:
        result = make(*arguments, **fields)
    except UserError as error:
        message = one_line(str(error))
    assert message.isprintable()
    return result


def contents(folder: Path) -> set[tuple[str, int]]:
    """Every file below a folder, with the time of its last change."""
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}
