"""Which rows of a table an expression selects: SQL's own words, by SQLite, on a table in memory that nothing can be done to."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from harness.rules import UserError, shown, unknown

TOKENS = re.compile(r"""'(?:[^']|'')*'|"((?:[^"]|"")*)"|.""", re.DOTALL)
"""Texts in single quotes, names in double ones, and all else."""

FUNCTIONS = frozenset(
    ("abs", "coalesce", "glob", "ifnull", "iif", "instr", "length", "like", "lower", "max", "min", "nullif", "round", "upper")
)
LONGEST_TEXT = 100_000
MOST_VALUES = 8

HINT = "text stands in single quotes and names with a slash in double ones, as in architecture = 'base' and \"val/mse\" < 0.01"


def select(rows: Sequence[Mapping[str, Any]], expression: str, option: str = "--where", what: str = "trials") -> list[int]:
    """Finds the rows for which an expression is true.

    Args:
        rows: All with the same columns, of which the first row's are taken.
        expression: One expression of SQL on the columns, such as ``architecture = 'base' and latent_size <= 10``.
        option: By which it was given, for messages.
        what: The rows are, for messages.

    Returns:
        Their places in ``rows``, in order; at least one.

    Raises:
        UserError: if it is not such an expression, names a column that there is not, or selects nothing.
    """
    columns = list(rows[0])
    _check_names(expression, columns)
    used: set[str] = set()
    connection = _table(rows, columns)
    try:
        connection.set_authorizer(_only_reading(used))
        query = f"SELECT rowid - 1 FROM trials WHERE (\n{expression}\n) ORDER BY rowid"  # noqa: S608 - it may only read
        found = [place for (place,) in connection.execute(query)]
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:  # the last where a shell's bytes are no text
        raise _explained(f"{option} {shown(expression)}", str(error), columns) from None
    finally:
        connection.close()
    if not found:
        raise UserError(f"{option} {shown(expression)} selects none of {len(rows)} {what}{_values_of(sorted(used), rows)}")
    return found


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_TEXT)
    kinds = [_affinity([row.get(name) for row in rows]) for name in columns]
    declared = ", ".join(f"{_quoted(name)} {kind}" for name, kind in zip(columns, kinds, strict=True))
    connection.execute(f"CREATE TABLE trials ({declared})")
    places = ", ".join("?" for _ in columns)
    values = ([row.get(name) for name in columns] for row in rows)
    connection.executemany(f"INSERT INTO trials VALUES ({places})", values)  # noqa: S608 - question marks only
    return connection


def _affinity(values: Sequence[Any]) -> str:
    """What SQLite turns the other side of a comparison into: so that ``latent_size = '10'`` is no comparison of unlike kinds."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int, bool}:
        return "INTEGER"
    return "REAL" if kinds <= {int, bool, float} else "TEXT"


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _check_names(expression: str, columns: Sequence[str]) -> None:
    """Checks the names in double quotes: SQLite would take one that is unknown for a text."""
    for name in (match[1] for match in TOKENS.finditer(expression) if match[1] is not None):
        if name.replace('""', '"') not in columns:
            raise unknown("column", name, columns, HINT)


def _only_reading(used: set[str]) -> Any:
    """Lets one query read the columns of the table, and nothing else; notes which it reads."""
    queries: list[int] = []

    def authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
        if action == sqlite3.SQLITE_READ:
            used.add(second or "")
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_OK if second in FUNCTIONS else sqlite3.SQLITE_DENY
        queries.append(action)
        return sqlite3.SQLITE_OK if queries == [sqlite3.SQLITE_SELECT] else sqlite3.SQLITE_DENY

    return authorize


def _explained(given: str, cause: str, columns: Sequence[str]) -> UserError:
    missing = re.match(r"no such column: (\S+)", cause)
    if missing:
        return unknown("column", missing[1].strip('"'), columns, HINT)
    if "not authorized" in cause:
        allowed = f"allowed is one expression on columns, with the functions {', '.join(sorted(FUNCTIONS))}"
        return UserError(f"{given} asks for more than columns: {allowed}")
    return UserError(f"{given} is no expression of SQL: {cause} ({HINT})")


def _values_of(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """What the columns hold that an expression looked at."""
    parts = []
    for name in (each for each in names if each in rows[0]):
        values = sorted({row[name] for row in rows if row.get(name) is not None}, key=lambda value: (str(type(value)), value))
        if values and isinstance(values[0], float):
            words = f"from {values[0]:.4g} to {values[-1]:.4g}"
        else:
            words = ", ".join(map(repr, values[:MOST_VALUES])) + (", ..." if len(values) > MOST_VALUES else "")
        parts.append(f"{name} is {words or 'empty'}")
    return f": {'; '.join(parts)}" if parts else ""
