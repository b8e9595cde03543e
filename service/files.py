"""Reads files and waits for them so that a slow, full or odd disk stops nobody: regular files, for a limited time."""

import asyncio
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

Result = TypeVar("Result")
FileSignature = tuple[int, int, int]
_MOST_WAITING = 32
_LOCK_RETRY_SECONDS = 0.02
_places = threading.BoundedSemaphore(_MOST_WAITING)


def open_regular(path: Path) -> int:
    """A descriptor for reading.

    Raises OSError, also if the path is no regular file: a pipe or a device could be read for ever.
    """
    # Opening a pipe waits for its writer unless it is opened without blocking; regular files ignore the flag.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return descriptor


def read_regular(path: Path, most_bytes: int = 1 << 40) -> bytes:
    """The content of a regular file of at most `most_bytes`. Raises OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"has {size} bytes, {most_bytes} are allowed", str(path))
        return file.read()


@contextmanager
def exclusive_lock(path: Path, seconds: float) -> Iterator[None]:
    """One holder at a time, over all processes of this host and of those that share the file system's locks.

    Raises TimeoutError (an OSError) if somebody else holds the lock for longer than `seconds`.
    """
    # Opened for reading and writing, so that a pipe in its place does not block.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    try:
        end = monotonic() + seconds
        while not _locked(descriptor):
            if monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"another writer has held {path.name} for {seconds:g} s")
            sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Abandoned(Exception):  # noqa: N818 - a state, not a mistake
    """A change that was answered as failed."""


class Attempt:
    """A change for a caller who waits for a limited time: either it is written, or the caller is told that it failed,
    never both.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self._writing = False

    def begin_writing(self) -> None:
        """Raises Abandoned if the change was answered as failed."""
        with self._lock:
            if self._abandoned:
                raise Abandoned
            self._writing = True

    def abandon(self) -> bool:
        """Whether the change will not be written; False if the writing has begun."""
        with self._lock:
            self._abandoned = not self._writing
            return self._abandoned


def file_signature(path: Path) -> FileSignature | None:
    """Changes whenever the file was replaced; None if it is absent. Costs one stat."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


async def run_limited(work: Callable[[], Result], seconds: float | None, what: str) -> Result:
    """Run `work` in a thread of its own and return or raise what it does.

    Raises TimeoutError if it takes longer than `seconds` (None: no limit). The thread cannot be ended: it goes on,
    and its result is dropped. At most 32 threads wait at once, so that a disk that hangs costs a bounded number of
    them; beyond these the error comes at once.
    """
    future = _started(work, what)
    done, _running = await asyncio.wait({future}, timeout=seconds)
    if not done:
        raise _too_slow(seconds, what)
    return future.result()


async def run_attempt(work: Callable[[Attempt], Result], seconds: float, what: str) -> Result:
    """Run a change as `run_limited` does.

    Where TimeoutError is raised, nothing has been written, and nothing will be.
    """
    attempt = Attempt()
    future = _started(partial(work, attempt), what)
    done, _running = await asyncio.wait({future}, timeout=seconds)
    if not done and attempt.abandon():
        raise _too_slow(seconds, what)
    return await future


def _started(work: Callable[[], Result], what: str) -> "asyncio.Future[Result]":
    """The result of `work`, which runs in a thread of its own. Raises TimeoutError if too many wait already."""
    if not _places.acquire(blocking=False):
        raise TimeoutError(errno.ETIMEDOUT, f"{_MOST_WAITING} calls wait already for {what}")
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    # Where nobody waits any more, an error is seen here, so that the loop does not report it as lost.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def finish(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - it is raised where the result is awaited
            error = raised
        finally:
            _places.release()
        # The loop may have ended meanwhile; then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="limited", daemon=True).start()
    return future


def _too_slow(seconds: float | None, what: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"{what} does not answer within {seconds:g} s")
