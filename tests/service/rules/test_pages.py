"""Tests the tokens of pages: their content, and that a token is valid for one user, model, scene, list of rules and
day.
"""

import base64
import zlib
from hashlib import blake2b
from typing import Any

import orjson
import pytest

from service.errors import InvalidRequest
from service.rules.order.served import Served
from service.rules.pages import MAX_SERVED, PageBinding, page_key, random_page_key, served_of, token_of

BINDING = PageBinding("712", "mmoe/1", None, "default", 3, 20_000)
KEY = page_key("secret")
SERVED = Served(
    ["a", "\u00fc", "c"], {0: [(5, -(2**63)), (), (5, -(2**63))], 2: [True, False, False], 3: ["new", None, "new"]}
)


def token(served: Served = SERVED, binding: PageBinding = BINDING) -> str:
    made = token_of(binding, served, KEY)
    assert made is not None
    return made


def refused(text: str, binding: PageBinding = BINDING, key: bytes = KEY) -> str:
    with pytest.raises(InvalidRequest) as error:
        served_of(text, binding, key)
    (field,) = error.value.errors
    assert field.field == "page"
    return field.message


def test_what_was_served_comes_back_with_the_same_types() -> None:
    served = served_of(token(), BINDING, KEY)
    assert served.item_ids == SERVED.item_ids
    assert served.values == SERVED.values
    further = served.and_then(["d"], {2: [True], 5: [(1,)]})
    again = served_of(token(further), BINDING, KEY)
    assert again.values[2] == [True, False, False, True]
    assert again.values[3] == ["new", None, "new", False]
    assert again.values[5] == [False, False, False, (1,)]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (BINDING._replace(user="1"), "another user"),
        (BINDING._replace(day=20_001), "of 2024-10-04, and today is 2024-10-05"),
        (BINDING._replace(model="mmoe/2"), "of model mmoe/1, and mmoe/2 ranks now"),
        (BINDING._replace(scene="home"), "another scene"),
        (BINDING._replace(revision=4), "the rules have changed since revision 3"),
        (BINDING._replace(rules="home"), "the rules have changed"),
    ],
)
def test_a_token_is_for_nothing_else(other: PageBinding, words: str) -> None:
    assert words in refused(token(), other)


def test_a_token_that_this_service_did_not_make_is_refused() -> None:
    assert "no token" in refused(token(), key=page_key("other"))
    raw = base64.urlsafe_b64decode(token())
    for changed in (raw[:-1], raw + b"x", b"", bytes(16), bytes(16) + zlib.compress(b"x" * 10_000_000)):
        assert "no token" in refused(base64.urlsafe_b64encode(changed).decode())
    for place in range(0, len(raw), 7):
        flipped = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        assert "no token" in refused(base64.urlsafe_b64encode(flipped).decode())


def test_a_list_ends_after_so_many_positions() -> None:
    assert token_of(BINDING, Served([str(i) for i in range(MAX_SERVED - 1)], {}), KEY) is not None
    assert token_of(BINDING, Served([str(i) for i in range(MAX_SERVED)], {}), KEY) is None


def test_a_key_is_never_made_of_nothing() -> None:
    with pytest.raises(ValueError, match="needs a secret"):
        page_key("")
    assert random_page_key() != random_page_key()


@pytest.mark.parametrize(
    ("binding", "served"),
    [
        (BINDING, Served([f"{i:04}" + "\x01" * 246 for i in range(MAX_SERVED - 1)], {})),
        (BINDING._replace(scene="x" * 2_000_000), SERVED),
    ],
    ids=["control characters", "a long scene"],
)
def test_no_token_is_made_that_the_service_cannot_read(binding: PageBinding, served: Served) -> None:
    assert token_of(binding, served, KEY) is None


def with_mac(state: Any) -> str:
    """A token with a valid code."""
    body = zlib.compress(state if isinstance(state, bytes) else orjson.dumps(state), 1)
    return base64.urlsafe_b64encode(blake2b(body, key=KEY, digest_size=16).digest() + body).decode()


@pytest.mark.parametrize(
    "changed",
    [
        {"items": [str(i) for i in range(MAX_SERVED + 1)]},
        {"items": "abc"},
        {"items": [1, 2]},
        {"for": []},
        {"for": 3},
        {"values": {"0": [[1], [0]]}},
        {"values": {"0": [[1], [0, 0, 0]]}},
        {"values": {"0": [[1], [0, 1]]}},
        {"values": {"0": [[1], [0, -1]]}},
        {"values": {"0": [[1]]}},
        {"values": {"0": [[{}], [0, 0]]}},
        {"values": {"first": [[1], [0, 0]]}},
        {"values": []},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_state_of_another_shape_is_refused_whatever_its_code(changed: dict[str, Any]) -> None:
    state = {"for": list(BINDING), "items": ["a", "b"], "values": {"0": [[1], [0, 0]]}}
    assert served_of(with_mac(state), BINDING, KEY).values == {0: [1, 1]}
    assert "no token" in refused(with_mac({**state, **changed}))


@pytest.mark.parametrize("state", [b"", b"[]", b'{"for": ', b'"' + b"x" * 2_000_000 + b'"'], ids=len)
def test_what_is_no_state_is_refused_whatever_its_code(state: bytes) -> None:
    assert "no token" in refused(with_mac(state))
    assert "no token" in refused(
        base64.urlsafe_b64encode(blake2b(b"x", key=KEY, digest_size=16).digest() + b"x").decode()
    )
