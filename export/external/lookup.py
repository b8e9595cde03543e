"""Looks keys up in a graph: one hash lookup for small vocabularies, a search in a sorted tensor for large ones.

A LabelEncoder holds its keys as an attribute in the protobuf, and each process builds its hash table anew. The search
reads two tensors, which can be mapped from a file: `starts` holds, for the highest bits of a key, the position of the
first key with these bits; `pairs` holds the keys in ascending order, each followed by its row. A key is found by
bisection among the keys that share its highest bits: with as many buckets as keys, these are about ten at most.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from features import MISSING_KEY
from models.data.encoding.vocabulary import MISSING_ROW, Vocabulary

NO_ROW = -1
STARTS = "lookup_starts"
PAIRS = "lookup_pairs"
BYTES_PER_KEY = 16
_MOST_BITS = 28


def lookup_table(vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return every key that has a row, and the row, int64 each; the missing key is included."""
    keys = np.concatenate([[MISSING_KEY], vocabulary.keys]).astype(np.int64)
    return keys, np.concatenate([[MISSING_ROW], vocabulary.rows]).astype(np.int64)


def fill_hash_lookup(model: onnx.ModelProto, vocabulary: Vocabulary) -> None:
    """Write the keys and rows of a vocabulary into the graph's LabelEncoder, if it has one."""
    for node in _lookups(model):
        keys, rows = lookup_table(vocabulary)
        del node.attribute[:]
        node.attribute.extend(
            [
                helper.make_attribute("keys_tensor", numpy_helper.from_array(keys, "keys")),
                helper.make_attribute("values_tensor", numpy_helper.from_array(rows, "rows")),
                helper.make_attribute(
                    "default_tensor", numpy_helper.from_array(np.array([NO_ROW], np.int64), "no_row")
                ),
            ]
        )


def _lookups(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The LabelEncoder nodes: one, or none for a schema of numbers alone."""
    return [node for node in model.graph.node if node.op_type == "LabelEncoder"]


class KeySearch(NamedTuple):
    """The tensors of a search, and the number of bisections that decide between the keys of the largest bucket.

    `starts` int32 `[2^bits]`, `pairs` int64 `[2 * (V + padding)]`; positions in `starts` count values of `pairs`.
    """

    starts: np.ndarray
    pairs: np.ndarray
    bisections: int

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors by their name in the graph."""
        return {STARTS: self.starts, PAIRS: self.pairs}


def key_search(keys: np.ndarray, rows: np.ndarray) -> KeySearch:
    """Return the search for distinct keys int64 `[V]`, V > 0, and their rows. Raises ValueError for too many keys.

    The padding repeats the last pair, so that every step of a search finds a value.
    """
    # Count the keys by their highest bits.
    bits = bits_for(len(keys))
    order = np.argsort(keys)
    counts = np.bincount((keys.view(np.uint64) >> np.uint64(64 - bits)).astype(np.int64), minlength=1 << bits)
    # Negative keys come first, and their highest bits, read as a whole number, are the upper half.
    half = len(counts) // 2
    ascending = np.roll(counts, half)
    starts = np.roll(2 * (np.cumsum(ascending) - ascending), -half)
    # Put each row beside its key.
    bisections = int(counts.max() - 1).bit_length()
    padding = 1 << bisections
    if 2 * (len(keys) + padding) > np.iinfo(np.int32).max:
        raise ValueError(f"{len(keys)} keys are more than the lookup has positions for")
    pairs = np.empty((len(keys) + padding, 2), dtype=np.int64)
    pairs[: len(keys), 0] = keys[order]
    pairs[: len(keys), 1] = rows[order]
    pairs[len(keys) :] = pairs[len(keys) - 1]
    return KeySearch(starts.astype(np.int32), pairs.ravel(), bisections)


def bits_for(keys: int) -> int:
    """The number of highest bits that select a bucket: about one key per bucket."""
    return min(_MOST_BITS, max(1, keys.bit_length()))


def put_search(model: onnx.ModelProto, search: KeySearch) -> None:
    """Replace the graph's LabelEncoder by a search, whose tensors the caller adds to the initialisers."""
    nodes = list(model.graph.node)
    for lookup in _lookups(model):
        place = nodes.index(lookup)
        nodes[place : place + 1] = _search(model, lookup.input[0], lookup.output[0], search)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _search(model: onnx.ModelProto, keys: str, result: str, search: KeySearch) -> Iterable[onnx.NodeProto]:
    """The nodes from flat keys int64 `[n]` to rows int64 `[n]`, -1 for unknown keys.

    For flat indices GatherElements gives what Gather gives, in less than half the time (ONNX Runtime 1.32).
    """
    bits = len(search.starts).bit_length() - 1
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: np.generic) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"lookup_{name}"))
        return f"lookup_{name}"

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    # The first position of the key's bucket
    unsigned = add("Cast", [keys], "lookup_unsigned", to=TensorProto.UINT64)
    shift = constant("shift", np.uint64(64 - bits))
    highest = add("BitShift", [unsigned, shift], "lookup_highest", direction="RIGHT")
    bucket = add("Cast", [highest], "lookup_bucket", to=TensorProto.INT64)
    position = add("GatherElements", [STARTS, bucket], "lookup_start")
    # Bisection: go on by half the rest, if the key there is not larger
    for step in reversed(range(search.bisections)):
        further = add("Add", [position, constant(f"step_{step}", np.int32(2 << step))], f"lookup_further_{step}")
        there = add("GatherElements", [PAIRS, further], f"lookup_there_{step}")
        within = add("LessOrEqual", [there, keys], f"lookup_within_{step}")
        position = add("Where", [within, further, position], f"lookup_position_{step}")
    # The row beside the key, if it is the key
    candidate = add("GatherElements", [PAIRS, position], "lookup_candidate")
    known = add("Equal", [candidate, keys], "lookup_known")
    beside = add("Add", [position, constant("one", np.int32(1))], "lookup_beside")
    row = add("GatherElements", [PAIRS, beside], "lookup_row")
    add("Where", [known, row, constant("no_row", np.int64(NO_ROW))], result)
    return nodes
