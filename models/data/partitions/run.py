"""Encodes the files of a recipe's tables on all cores; what is finished already is not encoded again."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.files.unfinished import finish, remove_abandoned, unfinished_folder
from features.parent_process import begin_in_pool
from features.schemas.schema import Feature
from models.data.encoding.impressions import times_are_bounded
from models.data.partitions.encode import ROLES, FileToEncode, columns_of, encode_file
from models.data.split import SplitParts
from models.data.stored.partition import DESCRIPTION, EncodedFile, open_partition
from models.data.tables import file_hash
from models.recipe import Recipe, RecipeError
from tables import Table

FORMAT = 1
FOLDER = "partitions"
LEAST_BYTES = 64 << 20  # of files that are encoded; below it, starting processes takes longer than it saves


@dataclass(frozen=True)
class _Job:
    source: FileToEncode
    folder: Path


def encode_partitions(
    recipe: Recipe, tables: Mapping[str, Table], parts: SplitParts, folder: Path, cache: Path
) -> dict[str, list[EncodedFile]]:
    """Encode every file of the tables; return the partitions of each table in the order of its files.

    The results of tables of several files stay in `cache` under a fingerprint of their inputs, so that the next run
    encodes what is new alone; those of a single file go into `folder`. Raises TableError, of the first file in order.
    """
    roles = [role for role in ROLES if role in tables]
    jobs: dict[str, list[_Job]] = {}
    for role in roles:
        place = folder / FOLDER if tables[role].is_one_file else cache / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        remove_abandoned(place, "*.*")
        jobs[role] = list(_jobs(recipe, tables[role], parts, place))
    pending = [job for role in roles for job in jobs[role] if not (job.folder / DESCRIPTION).is_file()]
    _run(pending, recipe.data.threads)
    return {role: [open_partition(job.folder) for job in jobs[role]] for role in roles}


def _jobs(recipe: Recipe, table: Table, parts: SplitParts, place: Path) -> Iterator[_Job]:
    """One job per file, with a folder that is named by all that decides the result."""
    columns, lists = columns_of(recipe, table.role)
    kinds = table.column_kinds(list(columns), lists)
    source = FileToEncode(recipe, table.role, table.files[0], kinds)
    deciding = {"format": FORMAT, "role": table.role, "kinds": kinds, "recipe": _deciding(recipe, table.role)}
    common = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(file_hash, table.files))
    first = 0
    for file, digest, rows in zip(table.files, hashes, parts.rows_of(table), strict=True):
        job = replace(source, file=file)
        named = [common, digest, file.partition]
        # A split that moves by a day changes the part of rows, but not what is encoded: only which rows have any part.
        if table.role == "impressions":
            job = replace(job, used=(parts.path, first))
            named.append(hashlib.sha256(parts.used(first, rows)).hexdigest())
            first += rows
        name = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]
        yield _Job(job, place / name)


def _deciding(recipe: Recipe, role: str) -> dict[str, Any]:
    """What of a recipe decides the encoding of a table's files: their columns, and the features made of them."""
    data = recipe.data
    schema = recipe.features
    ids = (schema.user_id_feature, schema.item_id_feature)
    deciding: dict[str, Any] = {
        "columns": [data.user_row, data.item_row, data.time_ms, data.served],
        "ids": [feature.model_dump(mode="json") for feature in (*schema.user, *schema.item) if feature.name in ids],
    }
    if role in ("users", "items"):
        deciding["features"] = _dumped(schema.user if role == "users" else schema.item)
    elif role == "behaviours":
        assert schema.behaviour is not None
        deciding["vocabularies"] = [schema.behaviour.action_vocabulary, schema.behaviour.scene_vocabulary]
    else:
        kinds = [[name, [kind.model_dump(mode="json") for kind in kinds]] for name, kinds in recipe.label_kinds.items()]
        position = recipe.position
        deciding |= {
            "request": data.request_id,
            "features": [_dumped(schema.context), _dumped(schema.candidate)],
            "labels": kinds,
            "times": times_are_bounded(recipe),
            "position": position and position.model_dump(include={"column", "cross", "max_position"}),
        }
        if data.weight_columns:  # left out otherwise, so that what was encoded before the key existed stays valid
            deciding["weights"] = list(data.weight_columns)
    return deciding


def _dumped(features: Sequence[Feature]) -> list[dict[str, Any]]:
    return [feature.model_dump(mode="json") for feature in features]


def _run(jobs: Sequence[_Job], processes: int) -> None:
    """Run the jobs, in processes of their own if they are large."""
    size = sum(job.source.file.state[0] for job in jobs)
    workers = min(processes, len(jobs))
    if workers < 2 or size < LEAST_BYTES:
        for job in jobs:
            _encode(job)
        return
    # A process is begun anew: one that is forked from threads of torch may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=begin_in_pool, initargs=(os.getpid(),))
    try:
        for future in [pool.submit(_encode, job) for job in jobs]:
            future.result()
    except BrokenProcessPool:
        problem = "data.processes: a process that encoded files was ended, perhaps for want of memory; set it lower"
        raise RecipeError(problem, ("data", "processes")) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(job: _Job) -> None:
    """Encode one file into its folder, whole or not at all."""
    with unfinished_folder(job.folder.parent, f"{job.folder.name}.") as unfinished:
        batches = encode_file(job.source, unfinished)
        (unfinished / DESCRIPTION).write_text(json.dumps({"file": job.source.file.name, "batches": batches}))
        try:
            finish(unfinished, job.folder)
        except OSError:  # another process has just encoded the same
            if not (job.folder / DESCRIPTION).is_file():
                raise
