"""Looks for the rows of listed item ids, and for the stored ids that are nearest to one without a row."""

from collections.abc import Sequence
from itertools import islice

from redis import Redis
from redis.exceptions import ResponseError

from features.nearest import near_names
from service.store.base import StoreDown
from service.store.redis.clients import REDIS_ERRORS, client, values_of
from service.store.redis.keys import item_key, item_prefix

_TIMEOUT_SECONDS = 2.0
_SCANNED_KEYS = 20_000  # of any kind, so that a large store costs a few milliseconds
_KEYS_PER_SCAN = 1000
_COMPARED_ITEMS = 1000
_MOST_SOUGHT = 50  # ids without a row: to compare one with 1000 others takes 3 ms


def items_without_row(url: str, fingerprint: str, item_ids: Sequence[str]) -> dict[str, str]:
    """Return the ids that have no row under a schema, each with the nearest id that has one, `""` if none is near.

    Only a part of a large store is searched for near ids, and only for the first 50 ids. Raises StoreDown.
    """
    try:
        with client(url, _TIMEOUT_SECONDS) as redis:
            return _nearest(redis, fingerprint, item_ids)
    except REDIS_ERRORS as error:
        raise StoreDown(str(error)) from error


def _nearest(redis: "Redis", fingerprint: str, item_ids: Sequence[str]) -> dict[str, str]:
    absent = _absent(redis, fingerprint, item_ids)
    if not absent:
        return {}
    # First other ways to write the same id, then ids that look alike.
    forms = {item_id: _other_forms(item_id) for item_id in absent}
    every = [form for other in forms.values() for form in other]
    present = set(every) - set(_absent(redis, fingerprint, every))
    stored = _stored_ids(redis, fingerprint)
    nearest = {}
    for number, item_id in enumerate(absent):
        near = [form for form in forms[item_id] if form in present]
        if not near and number < _MOST_SOUGHT:
            near = near_names(item_id, stored)
        nearest[item_id] = near[0] if near else ""
    return nearest


def _absent(redis: "Redis", fingerprint: str, item_ids: Sequence[str]) -> list[str]:
    if not item_ids:
        return []
    rows = values_of(redis, [item_key(fingerprint, item_id) for item_id in item_ids])
    return [item_id for item_id, row in zip(item_ids, rows, strict=True) if row is None]


def _other_forms(item_id: str) -> list[str]:
    """Other texts that people and programs write for one id: `007` and `7.0` for 7, spaces, upper and lower case."""
    forms = [item_id.strip(), item_id.lstrip("0"), item_id.removesuffix(".0"), item_id.lower(), item_id.upper()]
    return [form for form in dict.fromkeys(forms) if form and form != item_id]


def _stored_ids(redis: "Redis", fingerprint: str) -> list[str]:
    """Return ids of some items that have a row; none if the Redis user may not list keys."""
    prefix = item_prefix(fingerprint).encode()
    try:
        keys = list(islice(redis.scan_iter(count=_KEYS_PER_SCAN), _SCANNED_KEYS))
    except ResponseError:
        return []
    of_items = (key for key in keys if key.startswith(prefix))
    return [key.removeprefix(prefix).decode(errors="replace") for key in islice(of_items, _COMPARED_ITEMS)]
