"""Writes and reads continuation tokens: the earlier pages of a list, bound to one user, model and day.

A token is the state itself, compressed and authenticated with a key that all workers share, so that any worker can
continue. It is valid only for its user, model version, scene, rules and day (UTC).
"""

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from hmac import compare_digest
from secrets import token_bytes
from typing import Any, NamedTuple

import orjson

from service.errors import InvalidRequest, invalid
from service.rules.order.served import Served
from service.store.shown import DAY_MS

MAX_SERVED = 1000  # positions of all pages together
MAX_CHARACTERS = 100_000
_MOST_BYTES = 1 << 20
_MAC_BYTES = 16
FIELD = "page"


class PageBinding(NamedTuple):
    """The values that a token is bound to; `day` counts from 1970."""

    user: str
    model: str
    scene: str | None
    rules: str
    revision: int
    day: int


def page_key(secret: str) -> bytes:
    """Derive the key of the tokens from a secret that all workers have. Raises ValueError if there is no secret."""
    if not secret:
        raise ValueError("a key of page tokens needs a secret")
    return blake2b(secret.encode(), digest_size=32, person=b"funnelrank-page").digest()


def random_page_key() -> bytes:
    """Return a key for tokens that are valid until the service ends."""
    return token_bytes(32)


def token_of(binding: PageBinding, served: Served, key: bytes) -> str | None:
    """Return the token of the next page; None if the list has become too long for another page."""
    if len(served.item_ids) >= MAX_SERVED:
        return None
    columns = {str(rule): _packed(values) for rule, values in served.values.items()}
    state = orjson.dumps({"for": tuple(binding), "items": served.item_ids, "values": columns})
    if len(state) > _MOST_BYTES:
        return None
    body = zlib.compress(state, 1)
    token = urlsafe_b64encode(_mac(body, key) + body).decode()
    return token if len(token) <= MAX_CHARACTERS else None


def served_of(token: str, binding: PageBinding, key: bytes) -> Served:
    """Return the earlier pages of a token. Raises InvalidRequest for a token that is bound to other values, or not
    ours.
    """
    try:
        raw = urlsafe_b64decode(token.encode("ascii"))
    except ValueError:
        raise invalid(FIELD, "this is no token of an earlier page") from None
    body = raw[_MAC_BYTES:]
    if not compare_digest(raw[:_MAC_BYTES], _mac(body, key)):
        raise invalid(FIELD, "this is no token of an earlier page of this service")
    try:
        made_for, served = _read(body)
    except (ValueError, TypeError, LookupError, AttributeError, zlib.error):
        raise invalid(FIELD, "this is no token of an earlier page that can be read") from None
    if made_for != binding:
        raise _of_another(made_for, binding)
    return served


def _read(body: bytes) -> tuple[PageBinding, Served]:
    """Read a state. Raises one of several errors if it has another shape than a state that `token_of` writes."""
    state = orjson.loads(zlib.decompressobj().decompress(body, _MOST_BYTES))
    made_for = PageBinding(*state["for"])
    item_ids = state["items"]
    if not isinstance(item_ids, list) or not all(isinstance(item_id, str) for item_id in item_ids):
        raise ValueError("the items are no ids")
    if len(item_ids) > MAX_SERVED:
        raise ValueError("there are too many items")
    values = {int(rule): _unpacked(column) for rule, column in state["values"].items()}
    if any(len(column) != len(item_ids) for column in values.values()):
        raise ValueError("a column has not one value for each item")
    return made_for, Served(item_ids, values)


def _of_another(made_for: PageBinding, binding: PageBinding) -> InvalidRequest:
    """Return an error that names the first difference."""
    if made_for.user != binding.user:
        return invalid(FIELD, "the token is of another user")
    if made_for.day != binding.day:
        days = (datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date() for day in (made_for.day, binding.day))
        return invalid(FIELD, "the token is of {}, and today is {}; begin again without it".format(*days))
    if made_for.model != binding.model:
        message = f"the token is of model {made_for.model}, and {binding.model} ranks now; begin again without it"
        return invalid(FIELD, message)
    if made_for.scene != binding.scene:
        return invalid(FIELD, "the token is of another scene")
    return invalid(FIELD, f"the rules have changed since revision {made_for.revision}; begin again without the token")


def _packed(values: Sequence[Hashable]) -> list[Any]:
    """A column as its distinct values, and the index of each position's value among them."""
    places: dict[Hashable, int] = {}
    column = [places.setdefault(value, len(places)) for value in values]
    return [list(places), column]


def _unpacked(column: list[Any]) -> list[Hashable]:
    """Undo `_packed`. JSON has no tuples, so lists become tuples again. Raises ValueError for an index below 0, and
    TypeError for a value that cannot be counted.
    """
    values, places = column
    different = [tuple(value) if isinstance(value, list) else value for value in values]
    hash(tuple(different))
    if any(place < 0 for place in places):
        raise ValueError("an index is negative")
    return [different[place] for place in places]


def _mac(body: bytes, key: bytes) -> bytes:
    return blake2b(body, key=key, digest_size=_MAC_BYTES).digest()
