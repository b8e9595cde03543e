"""The steps of a run: each writes its result whole with a fingerprint of its inputs, and is skipped if it has one."""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.files.writing import write_whole
from loop.errors import LogError

STEPS = "steps"


@dataclass(frozen=True)
class FinishedStep:
    """A step that is done. `skipped`: by an earlier start of the same run. `result` is plain JSON."""

    name: str
    fingerprint: str
    seconds: float
    result: Mapping[str, Any]
    skipped: bool = False


def fingerprint_of(*inputs: object) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_step(
    folder: Path, name: str, inputs: object, work: Callable[[], Mapping[str, Any]], output: Path | None = None
) -> FinishedStep:
    """Do the work of a step, unless its result is there with the same inputs, and its `output` too."""
    path = folder / STEPS / f"{name}.json"
    fingerprint = fingerprint_of(name, inputs)
    before = read_step(folder, name)
    if before is not None and before.fingerprint == fingerprint and (output is None or output.exists()):
        return before
    forget_step(folder, name)
    started = time.monotonic()
    result = json.loads(json.dumps(work(), default=str))
    done = FinishedStep(name, fingerprint, time.monotonic() - started, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"fingerprint": fingerprint, "seconds": done.seconds, "result": result}
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return done


def read_step(folder: Path, name: str) -> FinishedStep | None:
    """Return a step that an earlier start of the run finished, with whatever inputs it had."""
    path = folder / STEPS / f"{name}.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return FinishedStep(name, content["fingerprint"], content["seconds"], content["result"], skipped=True)


def forget_step(folder: Path, name: str) -> None:
    """Have a step done again."""
    (folder / STEPS / f"{name}.json").unlink(missing_ok=True)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. Raises LogError if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogError(f"another process works on the run {folder}") from None
        yield
