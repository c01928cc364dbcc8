"""``python -m harness.reproduce``: trains a recorded trial again from its record alone, and says whether it is the same."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import DONE, NOT_ALL, run_as_program, run_command
from harness.config import HEADLINES
from harness.options import DEVICES, Parser
from harness.rules import UserError, unknown, user_path

if TYPE_CHECKING:
    from harness.reader import StoreReader
    from harness.reproduction import Reproduction
    from harness.retrain import Recipe

EPILOG = """\
examples:
  python -m harness.reproduce 0123456789abcdef0123456789abcdef --verify
  python -m harness.reproduce 0123456789abcdef0123456789abcdef --output again

The bits of a trial depend on the group that it was trained in: all of the group is trained again, in this process.
Exit code: 0 when it was trained again (with --verify: and is bit-equal or within the tolerance), 1 when it is
different or its images have changed, 2 when the command or its input is wrong, 130 when it was interrupted.
"""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        run_id: Of the trial's run.
        verify: Say whether it is the same.
        output: Folder for the files of the trial trained again; empty for none.
        data_root: Folder of the downloaded datasets, where given.
        device: One of ``DEVICES``; ``auto`` is that of the record, where it is there.
        tracking_uri: Of MLflow, where given.
        json: Write JSON on stdout.
    """

    run_id: str
    verify: bool = False
    output: str = ""
    data_root: str | None = None
    device: str = "auto"
    tracking_uri: str | None = None
    json: bool = False


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit code."""
    words = sys.argv[1:] if words is None else words
    return run_command(lambda: _main(parse(words)), lambda: "interrupted: nothing of the record has changed")


def _main(request: Request) -> int:
    found = _reproduce(request)
    _show(found, request)
    is_same = found.result is not None and (found.verdict is None or found.verdict.outcome != "different")
    return DONE if is_same else NOT_ALL


def parse(words: Sequence[str]) -> Request:
    """Reads a command line.

    Raises:
        UserError: if a word or a value is not one that it may be.
    """
    given = _parser().read(words)
    if given.device not in DEVICES:
        raise unknown("--device", given.device, DEVICES)
    return Request(given.run_id, given.verify, given.output, given.data_root, given.device, given.tracking_uri, given.json)


def _parser() -> Parser:
    import argparse

    parser = Parser(
        prog="python -m harness.reproduce",
        description="Trains the trial of a run again, from its record in MLflow alone.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_id", metavar="RUN_ID", help="the run of a trial: on its page in MLflow, or in trials.csv")
    parser.add_argument("--verify", action="store_true", help="say whether every number and weight is the same, and what differs")
    parser.add_argument("--output", default="", metavar="DIR", help="write the files of the trial trained again there")
    parser.add_argument(
        "--data-root", metavar="DIR", help="where datasets are kept (default: HARNESS_DATA, else the user's cache folder)"
    )
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where to train (default: as recorded)")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in this folder)"
    )
    parser.add_argument("--json", action="store_true", help="write JSON on stdout, everything else on stderr")
    return parser


def _reproduce(request: Request) -> Reproduction:
    from harness import retrain
    from harness.reader import open_reader
    from harness.reproduction import Reproduction
    from harness.sweeps import find_trial
    from harness.verify import check_recorded, differing_fields, verify

    reader = open_reader(request.tracking_uri)
    run = find_trial(reader, request.run_id)
    recipe = retrain.find_recipe(reader, run)
    placement = retrain.place(recipe, request.data_root, request.device)
    images = retrain.read_images(recipe.trial.config, placement)
    fields = differing_fields(recipe, placement, images.fingerprint)
    if recipe.placement.data_fingerprint not in ("", images.fingerprint):
        return Reproduction(recipe, placement.device, fields)
    recorded = _recorded_files(reader, run.run_id) if request.verify else {}
    check_recorded(run, recorded)
    folder = _new_folder(request.output) if request.output else None
    _note(_beginning(recipe, placement.device))
    result = retrain.retrain(recipe, placement, math.prod(images.shape), _note)
    if folder:
        _write_files(folder, result.artifacts)
    verdict = verify(run, recorded, result, placement) if request.verify else None
    return Reproduction(recipe, placement.device, fields, result, verdict)


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _beginning(recipe: Recipe, device: str) -> str:
    from harness.tables import trial_name

    trial, others = recipe.trial, len(recipe.members) - 1
    name, sweep = trial_name(trial, ()), recipe.sweep.tags["harness.sweep"]
    group = f", with the {others} others of its group" if others else ""
    return f"training trial {trial.number} of the sweep {sweep} again on {device}: {name}{group}"


def _recorded_files(reader: StoreReader, run_id: str) -> dict[str, bytes]:
    """Those that are compared, of those that the run has."""
    from harness.verify import COMPARED_FILES

    files = reader.files(run_id)
    there = files.sizes()
    return {path: files.read(path) for path in COMPARED_FILES if path in there}


def _new_folder(name: str) -> Path:
    """Made before there is anything to write into it, which takes long."""
    folder = user_path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    from harness.disk import write_whole

    try:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / path, content)
    except OSError as error:
        raise _unwritable(folder, error) from error
    _note(f"{len(files)} files are in {folder}")


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"--output {folder} cannot be written: {error.strerror or error}: choose another folder")


def _show(found: Reproduction, request: Request) -> None:
    """Prints the headline metrics then and now, the verdict, and what differs."""
    from harness import display
    from harness.reproduction import as_json, field_lines, number_text, verdict_lines

    if request.json:
        print(json.dumps(as_json(found), indent=2))
        return

    if found.result is not None:
        title = f"Trial {found.recipe.trial.number}, run {found.recipe.run.run_id}"
        rows = [(name, *(number_text(each.metrics, name) for each in (found.recipe.run, found.result))) for name in HEADLINES]
        display.print_table(title, ["", "recorded", "trained again"], rows, 1)
    display.print_lines([*verdict_lines(found), *field_lines(found)])


if __name__ == "__main__":
    run_as_program(main)
