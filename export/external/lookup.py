"""Looks keys up in a graph: a LabelEncoder for small vocabularies, a perfect hash in two tensors for large ones.

A LabelEncoder holds its keys as an attribute in the protobuf, and each process builds its hash table anew. The tensors
of the perfect hash can be mapped from a file. `pilots` holds a small number for each bucket of keys; `pairs` holds in
each slot a key, followed by its row. A key's slot is its own bits, changed by the pilot of its bucket: no two keys have
one slot, so that one comparison decides whether a key is known.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.external.perfect_hash import MIXING_SHIFT, PerfectHash, perfect_hash
from features import MISSING_KEY
from models.data.encoding.vocabulary import MISSING_ROW, Vocabulary

NO_ROW = -1
PILOTS = "lookup_pilots"
PAIRS = "lookup_pairs"
BYTES_PER_KEY = 16


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


class KeySlots(NamedTuple):
    """The hash that chooses the slots, and each key in its slot, beside its row: `pairs` int64 `[2 * slots]`."""

    chosen: PerfectHash
    pairs: np.ndarray

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The tensors by their name in the graph."""
        return {PILOTS: self.chosen.pilots, PAIRS: self.pairs}


def key_slots(keys: np.ndarray, rows: np.ndarray) -> KeySlots:
    """Return the slots of distinct keys int64 `[V]`, V > 0, and their rows.

    Free slots repeat the first pair: whoever asks for its key looks into the key's own slot. Raises ValueError.
    """
    chosen = perfect_hash(keys)
    pairs = np.empty((chosen.slots, 2), dtype=np.int64)
    pairs[:] = (keys[0], rows[0])
    slots = chosen.slots_of(keys)
    pairs[slots, 0] = keys
    pairs[slots, 1] = rows
    return KeySlots(chosen, pairs.ravel())


def put_slots(model: onnx.ModelProto, slots: KeySlots) -> None:
    """Replace the graph's LabelEncoder by a lookup in slots, whose tensors the caller adds to the initialisers."""
    nodes = list(model.graph.node)
    for lookup in _lookups(model):
        place = nodes.index(lookup)
        nodes[place : place + 1] = _slot_lookup(model, lookup.input[0], lookup.output[0], slots.chosen)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _slot_lookup(model: onnx.ModelProto, keys: str, result: str, chosen: PerfectHash) -> Iterable[onnx.NodeProto]:
    """The nodes from flat keys int64 `[n]` to rows int64 `[n]`, -1 for unknown keys.

    For flat indices GatherElements gives what Gather gives, in less than half the time (ONNX Runtime 1.32).
    """
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: np.generic) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"lookup_{name}"))
        return f"lookup_{name}"

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def shifted(values: str, bits: int, name: str) -> str:
        unsigned = add("Cast", [values], f"lookup_unsigned_{name}", to=TensorProto.UINT64)
        by = constant(f"shift_{name}", np.uint64(bits))
        highest = add("BitShift", [unsigned, by], f"lookup_highest_{name}", direction="RIGHT")
        return add("Cast", [highest], f"lookup_{name}", to=TensorProto.INT64)

    # Keys that are spread evenly, as hashes are, need no mixing
    hashed = keys
    for number, multiplier in enumerate(chosen.multipliers):
        upper = shifted(hashed, MIXING_SHIFT, f"upper_{number}")
        folded = add("BitwiseXor", [hashed, upper], f"lookup_folded_{number}")
        factor = constant(f"multiplier_{number}", np.int64(multiplier))
        hashed = add("Mul", [folded, factor], f"lookup_mixed_{number}")
    # The pilot of the key's bucket, which its highest bits number
    bucket = shifted(hashed, 64 - chosen.bucket_bits, "bucket")
    narrow = add("GatherElements", [PILOTS, bucket], "lookup_narrow_pilot")
    pilot = add("Cast", [narrow], "lookup_pilot", to=TensorProto.INT64)
    # The position of the slot in `pairs`: the lowest bits of the key, changed by the pilot
    changed = add("BitwiseXor", [hashed, pilot], "lookup_changed")
    mask = constant("mask", np.int64(chosen.position_mask))
    position = add("BitwiseAnd", [changed, mask], "lookup_position")
    # The row beside the key, if it is the key
    candidate = add("GatherElements", [PAIRS, position], "lookup_candidate")
    known = add("Equal", [candidate, keys], "lookup_known")
    beside = add("Add", [position, constant("one", np.int64(1))], "lookup_beside")
    row = add("GatherElements", [PAIRS, beside], "lookup_row")
    add("Where", [known, row, constant("no_row", np.int64(NO_ROW))], result)
    return nodes
