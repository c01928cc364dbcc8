"""Expressions of SQL on trials: SQL's own meaning, and one line for whatever is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from harness.rules import UserError
from harness.where import select

ROWS: list[dict[str, Any]] = [
    {
        "trial": number,
        "architecture": ["base", "deep"][number % 2],
        "latent_size": number,
        "batch_norm": bool(number % 3),
        "depth": None,
        "val/mse": number / 10 if number else None,
    }
    for number in range(6)
]


@pytest.mark.parametrize(
    ("expression", "places"),
    [
        ("architecture = 'base' and latent_size <= 2", [0, 2]),
        ("latent_size in (1, 5) or trial = 3", [1, 3, 5]),
        ('"val/mse" < 0.25', [1, 2]),
        ('"val/mse" is null', [0]),
        ("batch_norm = true", [1, 2, 4, 5]),
        ("not batch_norm", [0, 3]),
        ("depth is null and architecture like 'D%'", [1, 3, 5]),
        ("latent_size = '3'", [3]),
        ("architecture || '!' = 'base!' and abs(latent_size - 3) <= 1", [2, 4]),
        ("latent_size > 3 -- not the small ones", [4, 5]),
    ],
)
def test_an_expression_means_what_it_means_in_sql(expression: str, places: list[int]) -> None:
    """Comparisons, null, true and false, texts against numbers, functions and comments."""
    assert select(ROWS, expression) == places


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("architectur = 'base'", ["unknown column 'architectur'", "did you mean 'architecture'?"]),
        ('"val/mes" < 0.2', ["unknown column 'val/mes'", "did you mean 'val/mse'?"]),
        ("val/mse < 0.2", ["unknown column 'val'", "names with a slash in double ones"]),
        ("architecture = base", ["unknown column 'base'", "text stands in single quotes"]),
        ("", ["is no expression of SQL"]),
        ("latent_size <", ["is no expression of SQL"]),
        ("architecture = 'base", ["is no expression of SQL"]),
        ("1; drop table trials", ["is no expression of SQL"]),
        ("\0", ["is no expression of SQL"]),
        ("latent_size = (select max(latent_size) from trials)", ["asks for more than columns"]),
        ("exists (select 1 from sqlite_master)", ["asks for more than columns"]),
        ("load_extension('x.so')", ["asks for more than columns", "abs, coalesce"]),
        ("length(randomblob(1000000000)) > 0", ["asks for more than columns"]),
        ("architecture = 'heavy'", ["selects none of 6 trials", "architecture is 'base', 'deep'"]),
        ('latent_size > 9 and "val/mse" > 1', ["selects none", "latent_size is 0, 1, 2, 3, 4, 5", "val/mse is from 0.1 to 0.5"]),
    ],
)
def test_what_is_no_such_expression_is_one_line(expression: str, parts: list[str]) -> None:
    """With the nearest column, or the values that there are."""
    with pytest.raises(UserError) as error:
        select(ROWS, expression)
    assert [part for part in parts if part not in str(error.value)] == []


@example("\ud800")  # what the shell's bytes become where they are no text
@settings(max_examples=200, deadline=None)
@given(some.text(alphabet=some.sampled_from(list("abdelpsu_'\"()<>=;-/* 0123\0\n")) | some.characters(), max_size=40))
def test_any_text_selects_rows_or_is_one_line(text: str) -> None:
    """Whatever it is, nothing but places comes out, and the rows are as they were."""
    before = [dict(row) for row in ROWS]
    try:
        places = select(ROWS, text)
    except UserError:
        places = [0]
    assert set(places) <= set(range(len(ROWS)))
    assert before == ROWS


@settings(max_examples=100, deadline=None)
@given(some.integers(-3, 9), some.sampled_from(["<", "<=", "=", "<>", ">=", ">"]), some.sampled_from(["base", "deep"]))
def test_comparisons_agree_with_python(size: int, sign: str, architecture: str) -> None:
    """Of every kind, on numbers and texts together."""
    compare = {"<": int.__lt__, "<=": int.__le__, "=": int.__eq__, "<>": int.__ne__, ">=": int.__ge__, ">": int.__gt__}[sign]
    expected = [row["trial"] for row in ROWS if compare(row["latent_size"], size) or row["architecture"] == architecture]
    assert select(ROWS, f"latent_size {sign} {size} or architecture = '{architecture}'") == expected
