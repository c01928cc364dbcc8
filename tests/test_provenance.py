"""What is said of the commit and the versions."""

from __future__ import annotations

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
    (tmp_path / "module.py").write_text("")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit, is_dirty = provenance.git_state()
    assert (len(commit), is_dirty) == (40, False)
    (tmp_path / "module.py").write_text("1\n")
    assert provenance.git_state() == (commit, True)
