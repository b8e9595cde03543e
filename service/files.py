"""Reads files and waits for them safely: regular files only, and for a limited time, so that a slow disk
blocks nobody.
"""

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
from typing import Final, TypeVar

Result = TypeVar("Result")
FileSignature = tuple[int, int, int]
_LOCK_RETRY_SECONDS = 0.02


class ThreadPlaces:
    """Bounds the threads that wait for one thing, so that one that hangs costs a limited number of them.

    What hangs takes no place of anything else.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = threading.BoundedSemaphore(most)

    def take(self, subject: str) -> None:
        """Take a place until `give_back`. Raises TimeoutError if all are taken; `subject` names the thing."""
        if not self._free.acquire(blocking=False):
            raise TimeoutError(errno.ETIMEDOUT, f"{self.most} calls wait already for {subject}")

    def give_back(self) -> None:
        self._free.release()


REGISTRY_PLACES: Final = ThreadPlaces(32)
STORE_PLACES: Final = ThreadPlaces(16)


def open_regular(path: Path) -> int:
    """Return a descriptor for reading.

    Raises OSError, also if the path is not a regular file, because reading a pipe or a device may never end.
    """
    # Opening a pipe waits for its writer unless it is opened without blocking; regular files ignore the flag.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return descriptor


def read_regular(path: Path, most_bytes: int = 1 << 40) -> bytes:
    """Return the content of a regular file of at most `most_bytes`. Raises OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"has {size} bytes, {most_bytes} are allowed", str(path))
        return file.read()


@contextmanager
def exclusive_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock that one holder at a time can have, over all processes that share the file system's locks.

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
    """A change for a caller who waits for a limited time: it is either written or reported as failed, never both."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self._writing = False

    def begin_writing(self) -> None:
        """Raise Abandoned if the change was reported as failed."""
        with self._lock:
            if self._abandoned:
                raise Abandoned
            self._writing = True

    def abandon(self) -> bool:
        """Return whether the change will not be written; False if the writing has begun."""
        with self._lock:
            self._abandoned = not self._writing
            return self._abandoned


def file_signature(path: Path) -> FileSignature | None:
    """Return a value that changes whenever the file is replaced; None if there is no file. Costs one stat call."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


async def run_limited(
    work: Callable[[], Result], seconds: float | None, subject: str, places: ThreadPlaces = REGISTRY_PLACES
) -> Result:
    """Run `work` in a thread of its own; return its result or raise its error.

    Raises TimeoutError if it takes longer than `seconds` (None: no limit). A thread cannot be ended, so it goes on and
    its result is dropped. Without a place for another thread, the call fails at once.
    """
    future = _started(work, subject, places)
    done, _running = await asyncio.wait({future}, timeout=seconds)
    if not done:
        raise _too_slow(seconds, subject)
    return future.result()


async def run_attempt(work: Callable[[Attempt], Result], seconds: float, subject: str) -> Result:
    """Run a change, as `run_limited` does.

    After a TimeoutError nothing has been written, and nothing will be.
    """
    attempt = Attempt()
    future = _started(partial(work, attempt), subject, REGISTRY_PLACES)
    done, _running = await asyncio.wait({future}, timeout=seconds)
    if not done and attempt.abandon():
        raise _too_slow(seconds, subject)
    return await future


def _started(work: Callable[[], Result], subject: str, places: ThreadPlaces) -> "asyncio.Future[Result]":
    """Return the result of `work`, which runs in a thread of its own. Raises TimeoutError if too many threads wait
    already.
    """
    places.take(subject)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    # If the caller has given up, read the error here, so that the loop does not report it as unhandled.
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
            places.give_back()
        # The loop may have been closed meanwhile; then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="limited", daemon=True).start()
    return future


def _too_slow(seconds: float | None, subject: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"{subject} does not answer within {seconds:g} s")
