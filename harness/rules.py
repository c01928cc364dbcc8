"""What a value may be, and the one clear line that a wrong one gets. Standard library only."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake of the user's: its message is one line that names the value, what is allowed and the next step."""


def unknown(kind: str, value: object, allowed: Iterable[str], next_step: str = "") -> UserError:
    """Builds the error for a name that is not among the allowed ones.

    Args:
        kind: What was named, for example ``"architecture"``.
        value: The name that was given.
        allowed: The names that exist.
        next_step: What to type or read next; may be empty.

    Returns:
        The error, with the nearest allowed name where there is a similar one.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    step = f" ({next_step})" if next_step else ""
    return UserError(f"unknown {kind} {str(value)!r}: allowed are {', '.join(names)}{hint}{step}")


def user_path(text: str) -> Path:
    """The path that a user means by a text: a leading ``~`` is the home folder, where there is one."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises where there is no such home


def exists_as(path: Path, kind: str) -> bool:
    """Whether there is a ``"file"`` or ``"folder"`` of this name; a name that no disk can hold is none."""
    return (os.path.isfile if kind == "file" else os.path.isdir)(path)


@dataclass(frozen=True)
class Rule:
    """What one field may hold.

    Attributes:
        kind: ``int``, ``float``, ``bool`` or ``str``.
        low: Smallest allowed number, itself allowed.
        high: Largest allowed number, itself allowed.
        choices: The allowed words of a ``str`` field; empty where any word goes.
        none_word: How ``None`` is written on a command line, where the field may be ``None``.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    none_word: str = ""

    def check(self, name: str, value: Any) -> None:
        """Checks a value.

        Raises:
            UserError: if the value is of another kind, out of range or not among the choices.
        """
        if value is None and self.none_word:
            return
        if self.choices and isinstance(value, str) and value not in self.choices:
            raise unknown(name, value, [*self.choices, *([self.none_word] if self.none_word else [])])
        if not self._is_of_kind(value) or not self._is_in_range(value):
            raise UserError(f"{name} is {value!r}: allowed is {self.describe()}")

    def parse(self, name: str, text: str) -> Any:
        """Reads a value from the command line.

        Returns:
            The value, of the field's kind, checked.

        Raises:
            UserError: if the text is not such a value.
        """
        if self.none_word and text == self.none_word:
            return None
        try:
            value = _READERS[self.kind](text)
        except (ValueError, KeyError):
            raise UserError(f"{name} is {text!r}: allowed is {self.describe()}") from None
        self.check(name, value)
        return value

    def describe(self) -> str:
        """Says in words what is allowed."""
        words = " or ".join(self.choices) if self.choices else _KIND_WORDS[self.kind] + self._range_words()
        return f"{words}, or {self.none_word!r}" if self.none_word else words

    def _is_of_kind(self, value: Any) -> bool:
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        if self.kind is int:
            return isinstance(value, int) and not isinstance(value, bool)
        return isinstance(value, self.kind)

    def _is_in_range(self, value: Any) -> bool:
        if self.kind is float and not -math.inf < value < math.inf:  # NaN too; whole numbers of any length compare
            return False
        return self.kind not in (int, float) or self.low <= value <= self.high

    def _range_words(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f" from {self.low:g} to {self.high:g}"
        return f" of at least {self.low:g}" if math.isfinite(self.low) else ""


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False, "on": True, "off": False}
_READERS: dict[type, Any] = {int: int, float: float, str: str, bool: lambda text: _BOOLEANS[text.lower()]}
_KIND_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
