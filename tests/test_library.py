"""Study files: found by name and by path, and blamed by line where they raise."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import TrialConfig
from harness.library import list_studies, load_study
from harness.rules import UserError

GOOD = """\
from harness.config import StudyConfig, TrialConfig

STUDY = StudyConfig(question="Which?", base=TrialConfig(epochs={epochs}), grid={{"latent_size": (2, 5)}})
"""

RAISING = """\
def fail(count):
    limit = 10
    return limit / count

STUDY = fail(0)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one; Python writes its caches, as it does unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    return tmp_path


def write(path: Path, text: str) -> str:
    """Writes a file, its folder too; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(name_or_path: str) -> str:
    """What the user is told of a study that cannot be read."""
    with pytest.raises(UserError) as caught:
        load_study(name_or_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_studies_that_come_with_the_harness_load_by_name(here: Path) -> None:
    """Each of them can be run from any folder, is named by its file and says what it asks."""
    studies = list_studies()
    assert "latent_sweep" in studies
    for name, path in studies.items():
        file = load_study(name)
        assert (file.study.name, file.path) == (name, path)
        assert file.study.question


def test_a_study_in_the_folder_studies_here_is_found_by_name(here: Path) -> None:
    """What the user writes in ./studies stands in the list, except what begins with an underscore."""
    path = write(here / "studies" / "mine.py", GOOD.format(epochs=3))
    write(here / "studies" / "_part.py", GOOD.format(epochs=3))
    assert list_studies()["mine"] == Path(path)
    assert "_part" not in list_studies()
    assert load_study("mine").study.base.epochs == 3


def test_a_study_here_stands_before_one_of_the_same_name_that_comes_with_the_harness(here: Path) -> None:
    """A copy can be changed without another name."""
    write(here / "studies" / "latent_sweep.py", GOOD.format(epochs=4))
    assert load_study("latent_sweep").study.base.epochs == 4


@pytest.mark.parametrize("form", ["mine.py", "./mine.py", "sub/../mine.py", "absolute"])
def test_a_study_is_found_by_its_path(here: Path, form: str) -> None:
    """Relative and absolute paths both go."""
    (here / "sub").mkdir()
    path = write(here / "mine.py", GOOD.format(epochs=5))
    file = load_study(path if form == "absolute" else form)
    assert (file.study.name, file.study.base.epochs, file.path) == ("mine", 5, Path(path).resolve())


def test_a_changed_study_file_is_read_anew(here: Path) -> None:
    """A change that keeps the length and falls into the same second is seen."""
    path = write(here / "mine.py", GOOD.format(epochs=3))
    assert load_study(path).study.base.epochs == 3
    write(here / "mine.py", GOOD.format(epochs=7))
    assert load_study(path).study.base.epochs == 7


def test_reading_a_study_leaves_nothing_beside_it(here: Path) -> None:
    """No cache of compiled code appears in the user's folder."""
    load_study(write(here / "mine.py", GOOD.format(epochs=3)))
    assert [path.name for path in here.iterdir()] == ["mine.py"]


def test_a_search_space_comes_with_its_study(here: Path) -> None:
    """The function of that name in the file is given on."""
    text = (
        "from harness.config import StudyConfig, TrialConfig\n"
        "STUDY = StudyConfig(question='Which?', sampler='random', trials=3)\n"
        "def search_space(trial):\n"
        "    return TrialConfig(latent_size=trial)\n"
    )
    space = load_study(write(here / "mine.py", text)).search_space
    assert space is not None
    assert space(9) == TrialConfig(latent_size=9)


def test_an_unknown_name_is_answered_with_the_nearest(here: Path) -> None:
    """The error lists the studies and says that a path goes too."""
    message = error_of("latent_swep")
    assert "unknown study 'latent_swep'" in message
    assert "did you mean 'latent_sweep'?" in message
    assert "path of a study file" in message


@pytest.mark.parametrize("name", ["gone.py", "gone/away", "./", "~nosuchuser/mine.py", "a" * 300 + ".py"])
def test_a_path_that_leads_to_no_file_is_named(here: Path, name: str) -> None:
    """A missing file, a folder, an unknown home and a name too long for the disk are all no study file."""
    assert name in error_of(name)


def test_a_study_file_that_raises_is_blamed_at_its_last_line(here: Path) -> None:
    """The error has the exception, the file, the number of the line deepest in the file, and the line itself."""
    path = write(here / "mine.py", RAISING)
    assert error_of(path) == f"the study file raises ZeroDivisionError: division by zero ({path}, line 3: return limit / count)"


def test_an_exception_raised_elsewhere_is_blamed_on_the_line_that_led_there(here: Path) -> None:
    """Frames of libraries are left out."""
    path = write(here / "mine.py", "import json\n\nSTUDY = json.loads('{')\n")
    message = error_of(path)
    assert "JSONDecodeError" in message
    assert f"({path}, line 3: STUDY = json.loads('{{'))" in message


def test_a_message_of_several_lines_becomes_one(here: Path) -> None:
    """Whatever the study file raises is told in one line."""
    assert "first second" in error_of(write(here / "mine.py", "raise ValueError('first\\n  second')\n"))


def test_a_study_file_with_a_syntax_error_is_blamed_at_its_line(here: Path) -> None:
    """The error has the file and the number of the line."""
    path = write(here / "mine.py", "one = 1\ntwo = = 2\n")
    message = error_of(path)
    assert "SyntaxError" in message
    assert f"({path}, line 2)" in message


@pytest.mark.parametrize("content", [b"STUDY = 1\0\n", b"name = '\xff'\n"], ids=["null byte", "not UTF-8"])
def test_a_study_file_that_is_no_text_is_named(here: Path, content: bytes) -> None:
    """Bytes that are no Python source are an error of the file; of a null byte early releases of Python 3.11 say ValueError."""
    path = here / "mine.py"
    path.write_bytes(content)
    message = error_of(str(path))
    assert "SyntaxError" in message or "ValueError: source code string cannot contain null bytes" in message
    assert str(path) in message


def test_a_wrong_value_in_a_study_file_names_the_file_and_the_field(here: Path) -> None:
    """What a field may hold is said as on the command line."""
    path = write(here / "mine.py", GOOD.format(epochs=0))
    message = error_of(path)
    assert path in message
    assert "epochs is 0: allowed is a whole number of at least 1" in message


def test_a_study_file_that_ends_python_is_an_error(here: Path) -> None:
    """A sys.exit in it is not taken for a success of the command."""
    path = write(here / "mine.py", "import sys\nsys.exit(0)\n")
    assert f"({path}, line 2: sys.exit(0))" in error_of(path)


@pytest.mark.parametrize("text", ["", "STUDY = 3\n", "STUDY = None\n", "study = 3\n", "STUDY = {'question': 'Which?'}\n"])
def test_a_file_that_declares_no_study_is_told_what_it_needs(here: Path, text: str) -> None:
    """No STUDY, or one of another type, is answered with the line to write."""
    path = write(here / "mine.py", text)
    assert error_of(path) == f"{path} declares no study: it needs STUDY = StudyConfig(...), imported from harness.config"


@pytest.mark.parametrize("extra", ["", "search_space = 3\n"])
def test_a_sampler_without_a_search_space_is_told_what_it_needs(here: Path, extra: str) -> None:
    """The error names the sampler and the function to write."""
    text = "from harness.config import StudyConfig\nSTUDY = StudyConfig(question='Which?', sampler='tpe', trials=3)\n"
    path = write(here / "mine.py", text + extra)
    message = error_of(path)
    assert path in message
    assert "'tpe'" in message
    assert "search_space(trial) -> TrialConfig" in message


@pytest.mark.parametrize("name", ["../mine", "./mine", "/mine", "studies/mine", "..\\mine", "~/mine"])
def test_a_name_that_leaves_its_folder_is_refused(here: Path, name: str) -> None:
    """A file is named by its whole path, with its ending; whatever there is of that name without it is not executed."""
    for folder in (here, here / "studies", here.parent):
        write(folder / "mine", "raise RuntimeError('executed')")
        write(folder / "mine.py", "raise RuntimeError('executed')")
    message = error_of(name)
    assert repr(name) in message
    assert "ends in .py" in message


def test_a_study_by_name_that_is_a_link_out_of_its_folder_is_refused(here: Path) -> None:
    """The user can give the path that it leads to, and of that it is the user's own choice."""
    path = write(here / "elsewhere" / "secret.py", GOOD.format(epochs=3))
    (here / "studies").mkdir()
    (here / "studies" / "mine.py").symlink_to(path)
    message = error_of("mine")
    assert "study 'mine' is" in message
    assert "a link that leads out of its folder" in message
    assert load_study("studies/mine.py").study.base.epochs == 3


def test_a_study_by_name_may_be_a_link_within_its_folder(here: Path) -> None:
    """The folder itself may be one too."""
    write(here / "mine" / "one.py", GOOD.format(epochs=3))
    (here / "mine" / "two.py").symlink_to("one.py")
    (here / "studies").symlink_to("mine")
    assert load_study("two").study.base.epochs == 3


def test_a_study_by_name_that_is_no_file_is_refused(here: Path) -> None:
    """A folder of that name is not read."""
    (here / "studies" / "mine.py").mkdir(parents=True)
    assert "which is no file" in error_of("mine")


def test_a_study_file_may_raise_anything(here: Path) -> None:
    """What is no Exception of Python's is told in a line too."""
    text = "class Mine(BaseException): pass\nraise Mine('first')\n"
    assert "Mine: first" in error_of(write(here / "mine.py", text))
