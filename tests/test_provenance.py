"""What is said of the commit and the versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from harness import provenance


def test_versions_are_those_installed() -> None:
    """Each package that numbers depend on, as the installation names it."""
    found = provenance.versions()
    assert {name: found[name] for name in provenance.PACKAGES} == {name: version(name) for name in provenance.PACKAGES}


def test_a_commit_and_its_changes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean checkout, then one with a change; nothing outside a checkout."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "module.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state() == ("", False)
    assert provenance.git_changes() == ""
    (tmp_path / "module.py").write_text("")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit, is_dirty = provenance.git_state()
    assert (len(commit), is_dirty) == (40, False)
    assert provenance.git_changes() == ""
    (tmp_path / "module.py").write_text("1\n")
    assert provenance.git_state() == (commit, True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "new.py").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"\xfc\n")
    subprocess.run(["git", "add", "latin.txt"], cwd=tmp_path, check=True)
    lines = provenance.git_changes().splitlines()
    assert lines[0] == "diff --git a/latin.txt b/latin.txt"
    assert {"+1", "+\ufffd", "untracked: folder/new.py"} <= set(lines)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "folder" / "new.py"))
    assert (provenance.git_state(), provenance.git_changes()) == (("", False), "")


def test_a_long_difference_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is that of the whole."""
    monkeypatch.setattr(provenance, "LONGEST_DIFF", 10)
    assert provenance.shortened("123456789ü") == b"123456789\xc3\n... cut here: 11 bytes, of which the first 10 are kept\n"
    assert provenance.shortened("1234567890") == b"1234567890\n"
    assert provenance.digest("123456789ü") != provenance.digest("123456789")


def test_the_device_has_a_name() -> None:
    """That of the processor's model, where the system says it."""
    name = provenance.device_name("cpu")
    assert name
    if Path("/proc/cpuinfo").exists():
        assert name in Path("/proc/cpuinfo").read_text() or name == platform.machine()
