"""Tests the keys of events: different events have different keys, and stored keys stay what they were."""

import hashlib

from service.store.event_keys import event_keys, identity


def test_an_identity_keeps_its_parts_apart() -> None:
    assert identity("a\x1fb", "c") != identity("a", "b\x1fc")
    assert identity("a", "") != identity("a")
    assert identity("a", None) != identity("a", "None")
    assert identity("1:a", "b") != identity("1:a1:b")


def test_event_keys_keep_their_parts_apart() -> None:
    keys = event_keys(["a\x1fb", "a", "id", "a\x1e1b"], ["c", "b\x1fc", "x", "c"], ["d"] * 4)
    keys += event_keys(["a"], ["x"], ["y"], ["x\x1fd"])
    assert len(set(keys)) == 5


def test_the_keys_of_stored_behaviours_stay() -> None:
    assert event_keys(["5"], ["click"], [None]) == [hashlib.sha256(b"5\x1fclick\x1f").digest()[:8]]
    assert event_keys(["5"], ["click"], [None], ["e-1"]) == [hashlib.sha256(b"id\x1fe-1").digest()[:8]]
