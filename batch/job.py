"""Describes a batch run in its output folder, so that only the same run continues there."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from batch.errors import BatchError
from features.files.strict_json import parse_json
from features.files.writing import write_whole
from service.addresses.log_address import is_uri
from service.documents import bring_documents
from service.fusion.document import FUSION_FILE
from service.rollout.rollout import ROLLOUT_FILE
from service.rules.definition.document import RULES_FILE
from service.settings import Settings
from tables import Table

JOB_FILE = "job.json"
_WRITTEN = ("part-*.parquet", "users-*.parquet")
_DOCUMENTS = (ROLLOUT_FILE, FUSION_FILE, RULES_FILE)


@dataclass(frozen=True)
class BatchOptions:
    """What to rank. `top_k` None: all candidates. `timestamp` is the time to rank as of, in milliseconds; None: that
    at which the run was begun.

    `user_outputs` names outputs of the graph with a vector per user, which are written too. `profile` and
    `rules` name a fusion profile and a list of rules in place of the scene's; empty `rules` are none.
    """

    timestamp: int | None
    top_k: int | None = None
    scene: str | None = None
    context: dict[str, Any] = field(default_factory=dict)
    partition_users: int = 1000
    user_outputs: tuple[str, ...] = ()
    profile: str | None = None
    rules: str | None = None


@dataclass(frozen=True)
class BatchJob:
    """One run: its options, the state of everything that decides its numbers, and its folder.

    `state` has the settings that change bits, the size and time of each table, and the hash of each document.
    """

    out: Path
    options: BatchOptions
    state: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """The JSON of `job.json`."""
        options = asdict(self.options)
        # Left out where it is empty, so that a run of an earlier release can be continued.
        if not self.options.user_outputs:
            del options["user_outputs"]
        return {"options": options, "state": self.state}


def state_of(settings: Settings, tables: dict[str, Table]) -> dict[str, Any]:
    """Return the state of the settings, tables and documents that decide a run's numbers. Raises OSError."""
    state: dict[str, Any] = {
        "registry": str(settings.registry.resolve()),
        "score_chunk": settings.score_chunk,
        "model_threads": settings.model_threads,
    }
    for name, table in tables.items():
        state[name] = _state_of_table(table)
    return state | documents_of(settings)


def _state_of_table(table: Table) -> list[Any]:
    """The place of a table, and the state of its file; of several files, one hash of their states."""
    if table.is_one_file:
        return [str(table.path.resolve()), *table.files[0].state]
    place = table.place if is_uri(table.place) else str(Path(table.place).absolute())
    return [place, sha256(json.dumps(table.states).encode()).hexdigest()]


def documents_of(settings: Settings) -> dict[str, Any]:
    """Return the hash of each document that says what is live; None for one that is absent. Raises OSError.

    Of a registry in an object store, this node gets the present documents first.
    """
    bring_documents(settings.registry)
    hashes: dict[str, Any] = {name: _hash_of(settings.registry / name) for name in _DOCUMENTS}
    hashes["fusion_file"] = _hash_of(settings.fusion_file) if settings.fusion_file else None
    return hashes


def recorded_timestamp(out: Path) -> int | None:
    """Return the time of the run that goes on in a folder; None if it has written nothing yet. Raises BatchError."""
    document = _read(out / JOB_FILE)
    return int(document["options"]["timestamp"]) if document is not None and _written(out) else None


def begin_or_continue(job: BatchJob) -> None:
    """Record the job in its folder, or check that it is the one that was begun there. Raises BatchError, OSError."""
    # The detour through JSON makes equal what a file can hold: lists for tuples.
    document = json.loads(json.dumps(job.document()))
    begun = _read(job.out / JOB_FILE)
    written = _written(job.out)
    if begun is None and written:
        # Without its description nobody knows what a partition holds, so it must not count as one of this run.
        problem = f"has files of another run, such as {written[0]}, and no {JOB_FILE} that describes it"
        raise BatchError(f"{job.out} {problem}; give another folder, or remove them")
    if begun is None or not written:
        # A run that ended before its first partition, for a wrong option say, leaves nothing to continue.
        write_whole(job.out / JOB_FILE, json.dumps(document, indent=1).encode())
        return
    for part, values in document.items():
        names = set(values) | set(begun.get(part, {}))
        changed = sorted(name for name in names if values.get(name) != begun.get(part, {}).get(name))
        if changed:
            raise BatchError(
                f"{job.out}: another run was begun here; changed since: {', '.join(changed)}. "
                "Continue it as it was begun, or give another folder"
            )


def _written(out: Path) -> list[str]:
    """The names of the partitions in a folder, sorted."""
    return sorted(path.name for pattern in _WRITTEN for path in out.glob(pattern))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BatchError(f"{path}: not JSON: {error}") from None
    options = document.get("options") if isinstance(document, dict) else None
    if not isinstance(options, dict) or type(options.get("timestamp")) is not int:
        raise BatchError(f"{path} describes no batch run")
    if not isinstance(document.get("state"), dict):
        raise BatchError(f"{path} describes no batch run")
    return document  # type: ignore[no-any-return]


def _hash_of(path: Path) -> str | None:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
