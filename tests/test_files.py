"""Files are written whole or not at all, and may be read by whom the umask lets."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fcn_edge import files
from fcn_edge.errors import UsageError
from fcn_edge.files import flush_soon, leftovers, replaced, require_writable, write_atomically


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail() -> None:
        with replaced(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_takes_no_files_is_refused_and_nothing_is_made(tmp_path: Path, monkeypatch) -> None:
    require_writable(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"deep cannot be written to, .*file is a file"):
        require_writable(tmp_path / "file" / "deep")
    monkeypatch.setattr(
        "os.access", lambda path, mode: not mode & os.W_OK
    )  # root may write everywhere but on a read-only disk
    with pytest.raises(UsageError, match=r"new cannot be written to, .* is read-only; choose another place"):
        require_writable(tmp_path / "new")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    """A temporary file is its owner's alone: a web server could not read the recording that it becomes."""
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_files_of_other_threads_keep_their_umask(tmp_path: Path) -> None:
    """A umask is the process's: setting it to learn it lets another thread's file be read by everyone."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            write_atomically(tmp_path / "a", b"")

    before = os.umask(0o077)
    thread = threading.Thread(target=write)
    try:
        thread.start()
        modes = set()
        for _ in range(3000):
            (tmp_path / "b").touch()
            modes.add((tmp_path / "b").stat().st_mode & 0o777)
            (tmp_path / "b").unlink()
    finally:
        done.set()
        thread.join()
        os.umask(before)
    assert modes == {0o600}


def test_leftovers_are_what_a_killed_process_left(tmp_path: Path) -> None:
    with replaced(tmp_path / "best.pt") as temporary:
        assert leftovers(tmp_path / "best.pt") == leftovers(tmp_path / "*.pt") == [temporary]
    assert not leftovers(tmp_path / "best.pt")


def test_a_file_and_its_name_are_brought_to_the_disk(tmp_path: Path, monkeypatch) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    (tmp_path / "x").touch()
    flush_soon(tmp_path / "x")
    files.wait_for_flushes()
    assert flushed == [str(tmp_path / "x"), str(tmp_path)]
    flush_soon(tmp_path / "gone" / "x")
    files.wait_for_flushes()
    assert len(flushed) == 2
