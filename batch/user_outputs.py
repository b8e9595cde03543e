"""Computes the graph's vectors of users, such as `user_representation`, and writes them beside the rankings."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.errors import BatchError
from batch.partition import RankedUser
from features.files.writing import replacing
from features.nearest import nearest
from service.bundle.loading import Bundle

_NAME = "users-{:06d}.parquet"
_FIRST = np.zeros(1, dtype=np.int64)


def check_user_outputs(names: Sequence[str], bundles: Iterable[Bundle]) -> None:
    """Raise BatchError unless every version has every one of these outputs with a vector per user."""
    for bundle in bundles:
        known = {output.name: len(output.shape) == 1 for output in bundle.manifest.outputs}
        for name in names:
            if name not in known:
                raise BatchError(f"{bundle.label} has no output '{name}' of a user{nearest(name, known)}")
            if not known[name]:
                raise BatchError(f"'{name}' of {bundle.label} is a vector per candidate, not of a user")


def user_outputs(bundle: Bundle, inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The vectors float32 `[D]` of a request's user by name. `inputs` are those of the request.

    The graph runs for one candidate, on which they do not depend. Raises onnxruntime's errors.
    """
    if not names:
        return {}
    return dict(zip(names, bundle.vectors(bundle.graph_inputs_at(inputs, _FIRST), names), strict=True))


def user_path(out: Path, number: int) -> Path:
    """Return the file with the users of a partition."""
    return out / _NAME.format(number)


def read_users(path: Path) -> int | None:
    """Return the number of users in such a file; None if it is not written yet. Raises BatchError for a damaged one."""
    if not path.exists():
        return None
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise BatchError(f"{path}: not the users of a partition ({error}); remove it to write it again") from None


def write_users(path: Path, ranked: Sequence[RankedUser]) -> None:
    """Write one row per user: `user_id`, a list of float32 per output, `model`, `degraded`. Raises OSError."""
    names = list(ranked[0].outputs) if ranked else []
    columns: dict[str, pa.Array] = {"user_id": pa.array([entry.user for entry in ranked], pa.string())}
    for name in names:
        columns[name] = pa.array([entry.outputs[name] for entry in ranked], pa.list_(pa.float32()))
    columns["model"] = pa.array([entry.model for entry in ranked], pa.string())
    columns["degraded"] = pa.array([entry.degraded for entry in ranked], pa.list_(pa.string()))
    table = pa.table(columns)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
