"""Impressions with known labels, on which two graphs are compared: rows of the run's data, turned into requests."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.graph import graph_inputs
from export.reduced.precision import ReductionError
from export.requests import Inputs
from features import MISSING_KEY
from features.layouts import COUNTER_INPUT
from features.within_request import INPUT, ComparedColumns, within_request
from models.data.batches import gather
from models.data.cache import Data, labels_of
from models.data.encoding.vocabulary import MISSING_ROW, Vocabulary
from models.training.run import Run, RunError, open_run_data

MOST_IMPRESSIONS = 20_000
CANDIDATES = (
    64  # int8 scales an input over all candidates of a request, so an impression alone would look better than it is
)
_CHUNK = 1024


class Judged(NamedTuple):
    """The labels `[n]` of an output, and whether each impression is in the output's space `[n]`."""

    label: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class Impressions:
    """`picked` impressions `[n]`, spread evenly over a part, with each output's labels."""

    data: Data
    part: str
    picked: np.ndarray
    judged: Mapping[str, Judged]

    def requests(self, seed: int) -> Iterator[Inputs]:
        """Yield one request per impression: its own candidate first, then others drawn from the part's impressions."""
        data = self.data
        part = self.data.parts[self.part]
        rng = np.random.default_rng(seed)
        keys = partial(keys_for, data.encoding.vocabulary, keys_of_rows(data.encoding.vocabulary))
        names = [s.name for s in graph_inputs(data.encoding.schema)]
        compared = ComparedColumns.of(data.encoding.schema)
        for start in range(0, len(self.picked), _CHUNK):
            picked = self.picked[start : start + _CHUNK]
            batch = {name: tensor.numpy() for name, tensor in gather(data, part, picked).items()}
            lengths = part.end[picked] - part.start[picked]
            for i in range(len(picked)):
                shown = np.concatenate([picked[i : i + 1], rng.integers(len(part), size=CANDIDATES - 1)])
                items = part.item[shown]
                arrays = {
                    name: values[i, : lengths[i]] if name.startswith("behaviour_") else values[i : i + 1]
                    for name, values in batch.items()
                }
                arrays |= {"item_rows": data.item_rows[items], "item_numerics": data.item_numerics[items]}
                if part.counters is not None:
                    arrays[COUNTER_INPUT] = part.counters[shown]
                arrays["candidate_rows"] = part.candidate_rows[shown]
                arrays["candidate_numerics"] = part.candidate_numerics[shown]
                arrays[INPUT] = within_request(compared, arrays["item_numerics"])
                inputs = {
                    name: arrays[name] if name in arrays else keys(arrays[name.replace("_keys", "_rows")])
                    for name in names
                }
                yield {name: np.ascontiguousarray(values) for name, values in inputs.items()}


def keys_of_rows(vocabulary: Vocabulary) -> np.ndarray:
    """Return a key for each embedding row, int64 `[rows]`: the graph's lookup maps each key back to its row.

    With two hashes no key has a row of the buckets alone; `keys_for` finds keys of codes.
    """
    unknown = next(
        key for key in range(1, len(vocabulary.keys) + 2) if key != MISSING_KEY and key not in vocabulary.keys
    )
    keys = np.full(vocabulary.n_rows, unknown, np.int64)
    keys[MISSING_ROW] = MISSING_KEY
    # A key of each bucket: its number plus a multiple of their count that makes it neither missing nor known.
    one_hash = vocabulary.buckets if vocabulary.hashes == 1 else {}
    for name, count in one_hash.items():
        (first,), _ = vocabulary.shared_rows([name])
        of_bucket = np.arange(count, dtype=np.int64) + count
        while (known := np.isin(of_bucket, vocabulary.keys)).any():
            of_bucket[known] += count
        keys[first : first + count] = of_bucket
    keys[vocabulary.rows] = vocabulary.keys
    return keys


def keys_for(vocabulary: Vocabulary, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return keys int64 in the shape of `rows`, which may have codes: `keys` are those of the vocabulary's rows.

    A key of a code is the code's number plus the number of codes, as such a key is neither missing nor a hash.
    """
    of_rows = keys[np.where(rows < len(keys), rows, MISSING_ROW)]
    for pools in vocabulary.pools.values():
        code = rows.astype(np.int64) - pools.first_code
        of_rows = np.where((code >= 0) & (code < pools.codes), code + pools.codes, of_rows)
    return of_rows


def impressions_of(run: Run, cache: Path) -> Impressions:
    """Return impressions of the test part, or of validation if no label of the test part has both classes.

    Raises ReductionError.
    """
    try:
        data = open_run_data(run, cache)
    except RunError as error:
        raise ReductionError(f"the loss by reduced precision is measured on the run's data: {error}") from error
    for part in ("test", "validation"):
        impressions = _impressions(run, data, part)
        if any(one.inside.any() and np.ptp(one.label[one.inside]) > 0 for one in impressions.judged.values()):
            return impressions
    raise ReductionError(
        "neither the test nor the validation part has a label that varies, so no loss can be measured; "
        "export in float32"
    )


def _impressions(run: Run, data: Data, part: str) -> Impressions:
    n = len(data.parts[part])
    picked = np.unique(np.linspace(0, n - 1, min(n, MOST_IMPRESSIONS)).astype(np.int64))
    judged: dict[str, Judged] = {}
    for output in run.ranker.outputs:
        inside = labels_of(data, part, output.space)[picked] > 0
        labels = output.kind.score_labels(labels_of(data, part, output.label)[picked])
        judged |= {n: Judged(label, inside) for n, label in zip(output.score_names, labels, strict=True)}
    return Impressions(data, part, picked, judged)
