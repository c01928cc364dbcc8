"""What is downloaded: no more than is allowed, nothing outside of its folder, nothing that is executed."""

from __future__ import annotations

import bz2
import gc
import gzip
import hashlib
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from harness import datasets, downloads
from harness.rules import UserError
from tests.support import fill, small_disk
from tests.test_datasets import error_of, load, write_torchvision


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """No dataset is remembered from one test to the next."""
    datasets.load.cache_clear()
    yield
    datasets.load.cache_clear()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A web server of this machine, from which EMNIST comes: its content, and whether it says how long that is."""
    given: dict[str, Any] = {"content": b"", "says_length": True}

    class Handler(BaseHTTPRequestHandler):
        """Answers every request with the same."""

        def do_GET(self) -> None:
            """Says how long it is or does not."""
            self.send_response(200)
            if given["says_length"]:
                self.send_header("Content-Length", str(len(given["content"])))
            self.end_headers()
            with suppress(OSError):  # of a reader who has had enough
                self.wfile.write(given["content"])

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.EMNIST, "url", f"http://127.0.0.1:{server.server_address[1]}/gzip.zip")
        yield given
        server.shutdown()


@pytest.mark.parametrize("says_length", [True, False])
def test_a_download_larger_than_is_allowed_is_given_up(
    says_length: bool, served: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the server says how large it is or not; Python's own downloads are as they were afterwards."""
    monkeypatch.setattr(downloads, "LARGEST_FILE", 100_000)
    served.update(content=bytes(300_000), says_length=says_length)
    before = urllib.request._opener  # type: ignore[attr-defined]
    message = error_of("emnist", tmp_path / "data")
    assert "gzip.zip has " in message
    assert "allowed" in message
    assert "100000" in message
    assert urllib.request._opener is before  # type: ignore[attr-defined]
    gc.collect()  # what is left open is told of here
    assert sum(path.stat().st_size for path in (tmp_path / "data").rglob("*")) < 200_000


def test_an_archive_unpacks_into_its_folder_only(served: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with dots or a slash before it leads nowhere else, were the checksum right."""
    path = tmp_path / "gzip.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for made in write_torchvision("emnist", tmp_path / "made"):
            archive.writestr(f"gzip/{made.name}.gz", gzip.compress(made.read_bytes()))
        archive.writestr("../../../../up.txt", "outside")
        archive.writestr(str(tmp_path / "absolute.txt"), "outside")
    served["content"] = path.read_bytes()
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    assert len(load("emnist", tmp_path / "deep" / "data").pixels.labels) == 42
    outside = [each for each in tmp_path.rglob("*.txt") if not each.is_relative_to(tmp_path / "deep" / "data")]
    assert outside == []


def test_an_archive_with_another_checksum_is_not_unpacked(served: dict[str, Any], tmp_path: Path) -> None:
    """Nothing of it is, however harmless."""
    path = tmp_path / "gzip.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gzip/notes.txt", "inside")
    served["content"] = path.read_bytes()
    assert "cannot be downloaded" in error_of("emnist", tmp_path / "data")
    assert list((tmp_path / "data").rglob("notes.txt")) == []


@pytest.mark.parametrize("name", ["mnist", "emnist"])
def test_files_of_old_versions_of_torchvision_are_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no checksum and would be read by torch.load; the files with checksums beside them are."""
    monkeypatch.setattr(downloads, "PUBLISHED_MD5", {})
    monkeypatch.setattr(torch, "load", None)
    write_torchvision(name, tmp_path)
    processed = tmp_path / name.upper() / "processed"
    processed.mkdir()
    for part in ("training", "test"):
        for end in ("", "_balanced"):
            (processed / f"{part}{end}.pt").write_bytes(b"a pickle")
    assert len(load(name, tmp_path).pixels.labels) == 42


def test_a_file_of_other_content_is_an_error_of_the_set(tmp_path: Path) -> None:
    """Whole and well packed as it may be."""
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(b"Remember the milk."))
    message = error_of("usps", tmp_path)
    assert f"dataset USPS: the files in {tmp_path} cannot be read" in message
    assert "--data-root" in message


def test_a_list_of_checksums_is_whole_or_as_it_was(tmp_path: Path) -> None:
    """On a disk without room for the new one the old one stays, and is still believed."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        list_file = disk / "KMNIST.sha256"
        file = disk / "KMNIST" / "raw" / "a"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"a")
        downloads._remember_checksums(disk, list_file, [file])
        before = list_file.read_text()
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            downloads._remember_checksums(disk, list_file, [file, disk / "filler"])
        assert list_file.read_text() == before == f"{hashlib.sha256(b'a').hexdigest()}  KMNIST/raw/a\n"


@pytest.mark.parametrize("limit", [100, 20_000], ids=["packed", "unpacked"])
def test_a_file_larger_than_is_allowed_is_refused(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it lies on the disk, or when it is unpacked."""
    paths = write_torchvision("usps", tmp_path)
    monkeypatch.setattr(downloads, "LARGEST_FILE", limit if limit == 100 else paths[0].stat().st_size)
    assert f"{paths[0]} has more than the {downloads.LARGEST_FILE} bytes" in error_of("usps", tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the system's reason."""
    path = write_torchvision("kmnist", tmp_path)[0]

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(downloads, "digest_of", refuse)
    with pytest.raises(UserError) as caught:
        datasets.prepare("kmnist", str(tmp_path))
    assert f"{path} cannot be read (Permission denied)" in str(caught.value)
