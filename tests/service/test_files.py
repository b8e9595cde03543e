"""Tests writing files whole, reading only regular files, and the limits of waiting."""

import asyncio
import fcntl
import os
import threading
from pathlib import Path

import pytest

from features.files.writing import write_whole
from service.files import Abandoned, Attempt, exclusive_lock, read_regular, run_limited


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "absent" / "document.json", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["document.json"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="is not a regular file"):
        read_regular(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file, larger than the memory
    with pytest.raises(OSError, match="has 1099511627776 bytes, 1000 are allowed"):
        read_regular(path, 1000)


def test_a_lock_that_is_held_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another writer has held .lock"), exclusive_lock(path, 0.1):
            pass
    with exclusive_lock(path, 0.1):
        pass


async def test_work_that_hangs_is_an_error_and_the_event_loop_goes_on() -> None:
    release = threading.Event()

    try:
        with pytest.raises(TimeoutError, match="the registry does not answer within 0.1 s"):
            await run_limited(release.wait, 0.1, "the registry")
        assert await run_limited(lambda: 7, 5, "the registry") == 7
        with pytest.raises(ValueError, match="broken"):
            await run_limited(lambda: int("broken"), 5, "the registry")
    finally:
        release.set()


async def test_work_that_hangs_holds_a_bounded_number_of_threads() -> None:
    release = threading.Event()
    before = threading.active_count()
    try:
        calls = [run_limited(release.wait, 0.5, "the registry") for _ in range(40)]
        messages = [str(e) for e in await asyncio.gather(*calls, return_exceptions=True)]
        assert threading.active_count() - before <= 32
        assert sum("calls wait already" in m for m in messages) == 8
    finally:
        release.set()


def test_an_attempt_is_either_written_or_told_to_have_failed() -> None:
    abandoned = Attempt()
    assert abandoned.abandon()
    with pytest.raises(Abandoned):
        abandoned.begin_writing()
    written = Attempt()
    written.begin_writing()
    assert not written.abandon()
