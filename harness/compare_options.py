"""The command line of ``python -m harness.compare``: words in, a checked ``Request`` out. Loads nothing that is slow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config import HEADLINES
from harness.options import Parser
from harness.rules import UserError, shown

FORMATS = ("markdown", "html", "csv", "json")

EPILOG = """\
STUDY is the name of a study (its newest sweep), the identity of a sweep or the id of its parent run; --list shows them.

examples:
  python -m harness.compare latent_sweep --group-by architecture
  python -m harness.compare latent_sweep --where "architecture = 'base' and latent_size <= 10" --metric val/mse
  python -m harness.compare 0123456789abcdef fedcba9876543210 --html --output difference.html
  python -m harness.compare latent_sweep --download files --where "status = 'finished'"
  python -m harness.compare latent_sweep --optuna-storage sqlite:///optuna.db

Exit code: 0, 2 when the command or its input is wrong, 130 when it was interrupted.
"""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        studies: Names, identities or run ids of sweeps.
        metrics: What is compared; the headline metrics where there are none.
        axes: Fields by which trials are grouped; what was varied where there are none.
        where: An expression of SQL that selects trials; empty for all.
        baseline: One that selects the group with which the others of a single sweep are compared; empty for the first.
        format: One of ``FORMATS``; empty for tables on the terminal.
        output: File to write to; empty for stdout.
        download: Folder for the files of the trials; empty for none.
        optuna_storage: Address of a storage of Optuna's to write the sweeps to; empty for none.
        tracking_uri: Of MLflow, where given.
        list_sweeps: Only list the sweeps.
    """

    studies: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    where: str = ""
    baseline: str = ""
    format: str = ""
    output: str = ""
    download: str = ""
    optuna_storage: str = ""
    tracking_uri: str | None = None
    list_sweeps: bool = False


def parse(words: Sequence[str]) -> Request:
    """Reads a command line.

    Raises:
        UserError: if a word or a value is not one that it may be.
    """
    given = _parser().read(words)
    formats = [name for name in FORMATS if getattr(given, name)]
    if len(formats) > 1:
        raise UserError(
            f"--{formats[0]} and --{formats[1]} are two formats: allowed is one, and --output FILE to write it to a file"
        )
    if given.output and not formats:
        raise UserError(f"--output {shown(given.output)} has no format: add --{', --'.join(FORMATS[:-1])} or --{FORMATS[-1]}")
    if not given.studies and not given.list:
        raise UserError("no study named: give one or several, such as latent_sweep; python -m harness.compare --list shows them")
    return Request(
        studies=tuple(given.studies),
        metrics=_names(given.metric),
        axes=tuple(name.replace("-", "_") for name in _names(given.group_by)),
        where=given.where,
        baseline=given.baseline,
        format="".join(formats),
        output=given.output,
        download=given.download,
        optuna_storage=given.optuna_storage,
        tracking_uri=given.tracking_uri,
        list_sweeps=given.list,
    )


def _names(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m harness.compare",
        description="Compares sweeps, or the groups of one, from their runs in MLflow: means, differences, corrected p values.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "studies", nargs="*", metavar="STUDY", help="what to compare; the first is what the others are compared with"
    )
    what = parser.add_argument_group("what to compare")
    what.add_argument("--list", action="store_true", help="list the sweeps of the store")
    what.add_argument(
        "--metric", action="append", default=[], metavar="NAME[,NAME...]", help=f"metrics (default {', '.join(HEADLINES)})"
    )
    what.add_argument(
        "--group-by",
        action="append",
        default=[],
        metavar="FIELD[,FIELD...]",
        help="fields of the configuration (default: what was varied)",
    )
    what.add_argument(
        "--where", default="", metavar="SQL", help="only the trials for which this is true: columns are fields and metrics"
    )
    what.add_argument(
        "--baseline",
        default="",
        metavar="SQL",
        help="of one sweep, the group that the others are compared with (default: the first)",
    )
    how = parser.add_argument_group("how to write it")
    for name in FORMATS:
        how.add_argument(f"--{name}", action="store_true", help=f"as {name} on stdout, instead of tables")
    how.add_argument("--output", default="", metavar="FILE", help="write that to a file")
    more = parser.add_argument_group("what else to do")
    more.add_argument(
        "--download", default="", metavar="DIR", help="fetch the files of the selected trials; again, what is missing"
    )
    more.add_argument(
        "--optuna-storage", default="", metavar="URL", help="write the sweeps to a storage of Optuna's, for optuna-dashboard"
    )
    more.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)"
    )
    return parser
