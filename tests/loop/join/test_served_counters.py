"""Tests that the counters of a record are read as they were served, and that other ones cannot stand in for them."""

import numpy as np
from counted_log import COUNTERS, SCHEMA

from features import FeatureSchema
from features.layouts import COUNTER_INPUT, Layouts
from loop.join.served import counters_of, graph_inputs_of, lacking


def test_the_counters_of_a_record_are_an_input_of_its_graph() -> None:
    layouts = Layouts.of(FeatureSchema.model_validate(SCHEMA))
    numbers = np.arange(2 * len(COUNTERS), dtype=np.float32).reshape(2, -1)
    items = layouts.item.empty(2)
    record = {
        "item_ids": ["5", "6"],
        "time_ms": 1,
        "user_keys": b"",
        "user_numerics": np.zeros(1, "<f4").tobytes(),
        "context_keys": b"",
        "context_numerics": b"",
        "item_keys": items["keys"].tobytes(),
        "item_numerics": items["numerics"].tobytes(),
        COUNTER_INPUT: numbers.tobytes(),
    }
    np.testing.assert_array_equal(counters_of(record, layouts), numbers)
    np.testing.assert_array_equal(graph_inputs_of(record, layouts)[COUNTER_INPUT], numbers)


def test_a_log_of_other_counters_lacks_those_of_a_recipe() -> None:
    logged = FeatureSchema.model_validate(SCHEMA)
    fewer = FeatureSchema.model_validate(SCHEMA | {"counters": COUNTERS[:1]})
    other = FeatureSchema.model_validate(SCHEMA | {"counters": [COUNTERS[0] | {"prior": {"a": 3.0, "b": 9.0}}]})
    assert lacking(logged, fewer) == ""
    assert lacking(fewer, logged) == "counter 'item_faded_rate' was not logged, or as another one"
    assert lacking(logged, other) == "counter 'item_rate' was not logged, or as another one"
