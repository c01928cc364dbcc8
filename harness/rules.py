"""What a value may be, and the one clear line that a wrong one gets. Standard library only."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_WHOLE = 2**63 - 1
"""What 64 bits hold: no count of anything is larger, and longer numbers cannot be written everywhere that a value is."""

LONGEST_SHOWN = 120
"""Characters of a wrong value that a message repeats."""


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
    step = f" ({next_step})" if next_step else ""
    return UserError(f"unknown {kind} {shown(str(value))}: allowed are {', '.join(names)}{nearest(value, names)}{step}")


def nearest(value: object, names: Sequence[str]) -> str:
    """What a message says of the name that is most like an unknown one; empty where none is like it."""
    near = difflib.get_close_matches(str(value)[:LONGEST_SHOWN], names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(text: str) -> str:
    """Spaces for line breaks, and escapes for what a terminal would obey: the names in it may be anybody's."""
    words = " ".join(text.split())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)


def without_passwords(text: str) -> str:
    """A text as it may be shown: of the addresses in it, each without its password."""
    return re.sub(r"\S+", lambda word: without_password(word[0]), text) if "://" in text else text


def without_password(uri: str) -> str:
    """An address as it may be shown: with no password before its last ``@`` or in an option, whatever characters it has."""
    hidden = re.sub(r"(://(?!/)[^:@]*):.*@", r"\1:***@", uri)
    return re.sub(r"(?i)([?&]\w*passw(?:or)?d=)[^&]*", r"\1***", hidden)


def shown(value: object) -> str:
    """A value as Python writes it, cut off where it would fill the screen."""
    try:
        text = repr(value)
    except Exception:  # a whole number of more than 4,300 digits has no text, and an object of the user's may raise anything
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8; what came of bytes that are none cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def user_path(text: str) -> Path:
    """The path that a user means by a text: a leading ``~`` is the home folder, where there is one."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises where there is no such home


def exists_as(path: Path, kind: str) -> bool:
    """Whether there is a ``"file"`` or ``"folder"`` of this name; a name that no disk can hold is none."""
    return (os.path.isfile if kind == "file" else os.path.isdir)(path)


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, is not below a folder."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def digest_of(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def checksum_words(path: Path) -> str:
    """What a message says of a file that is not as it should be: its SHA-256, where it can be read at all."""
    try:
        return f"SHA-256 {digest_of(path)}"
    except OSError as error:
        return f"no SHA-256: {error.strerror}"


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
            raise UserError(f"{name} is {shown(value)}: allowed is {self.describe()}")
        if self.kind is int and value > LARGEST_WHOLE:
            raise UserError(f"{name} is {shown(value)}: allowed is {self.describe()}, and at most {LARGEST_WHOLE}")
        if self.kind is str and not is_text(value):
            raise UserError(f"{name} is {shown(value)}: allowed is {self.describe()} in UTF-8")

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
            raise UserError(f"{name} is {shown(text)}: allowed is {self.describe()}") from None
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
