"""Tests keys: one value has one key, in every process and language."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import MISSING_KEY, FeatureError, key_of, keys_of_column
from features.keys import sorted_distinct

ROOT = Path(__file__).parents[2]


def test_the_key_is_the_documented_part_of_sha_256():
    digest = sha256(b"tag\x1f39").digest()
    assert key_of("tag", 39) == int.from_bytes(digest[:8], "big", signed=True)


def test_keys_never_change_between_releases():
    assert [key_of("tag", v) for v in (39, "Zürich", True)] == [key_of("tag", v) for v in ("39", "Zürich", "1")]
    assert key_of("item_id", "5239") == KNOWN["item_id", "5239"]
    assert key_of("tag", "猫") == KNOWN["tag", "猫"]


KNOWN = {("item_id", "5239"): -6790139251157960743, ("tag", "猫"): 8924590848983880131}


@pytest.mark.parametrize("value", [39, "39", 39.0, np.int8(39), np.int64(39), np.float32(39)])
def test_a_number_and_its_text_are_one_key(value):
    assert key_of("tag", value) == key_of("tag", "39")


@pytest.mark.parametrize("value", [None, "", float("nan"), np.nan])
def test_null_nan_and_the_empty_string_are_missing(value):
    assert key_of("tag", value) == MISSING_KEY


def test_vocabularies_do_not_share_keys():
    assert key_of("tag", "1") != key_of("tab", "1")
    assert key_of("ab", "c") != key_of("a", "bc")


@pytest.mark.parametrize("value", [0.5, float("inf"), [1], {"a": 1}, b"39", "x" * 513])
def test_a_value_that_is_no_category_is_refused_by_name(value):
    with pytest.raises(FeatureError, match="^tag: "):
        key_of("tag", value)
    with pytest.raises(FeatureError, match="^tag: "):
        keys_of_column("tag", [value])


def test_another_process_computes_the_same_keys():
    code = "from features import key_of; print(key_of('tag', 'Zürich'), key_of('tag', 7))"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "5"},
        cwd=ROOT,
    )
    assert out.stdout.split() == [str(key_of("tag", "Zürich")), str(key_of("tag", 7))]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=20),
    st.floats(allow_nan=True).filter(lambda x: x != x),
)


@given(st.lists(VALUES, max_size=20))
def test_a_column_has_the_keys_of_its_values(values):
    assert keys_of_column("tag", values).tolist() == [key_of("tag", v) for v in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_an_integer_column_has_the_keys_of_its_values(values):
    assert keys_of_column("tag", np.array(values, dtype=np.int64)).tolist() == [key_of("tag", v) for v in values]


@pytest.mark.parametrize("values", [[], [5], [3, -1, 3, 0, -1], [2**63 - 1, -(2**63), 2**63 - 1]])
def test_distinct_values_are_ascending_and_each_there_once(values):
    keys = np.array(values, dtype=np.int64)
    assert sorted_distinct(keys).tolist() == sorted(set(values))
    assert keys.tolist() == values  # and stay as they are
