"""Reads the rows that the store has now for a logged request, as the service would read them for it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from features.layouts import BEHAVIOUR_INPUTS, CANDIDATE_INPUTS, Layouts
from loop.errors import LogError
from loop.proof.again import LoggedRequest
from service.ranking.inputs.assemble import Assembled, assemble
from service.ranking.inputs.counter_numbers import put_counters
from service.store.base import StoreDown, StoredRows
from service.store.opening import open_store

_TIMEOUT_MS = 10_000


@dataclass(frozen=True, eq=False)
class PresentRequest:
    """A logged request with the rows that the store has now, and what there is to say of them."""

    request: LoggedRequest
    notes: list[str]


def with_present_rows(request: LoggedRequest, layouts: Layouts, redis_url: str, now_ms: int) -> PresentRequest:
    """Replace the rows of user and items, the counters and the behaviours by those of the store, as of `now_ms`.

    What the request gave itself stays: the context, values of candidates, its user and behaviours, and the whole row of
    an item whose features it gave. Raises LogError if the store does not answer.
    """
    exposure = request.exposure
    try:
        stored = asyncio.run(_fetched(request, layouts, redis_url, now_ms))
    except StoreDown as error:
        raise LogError(f"the present rows cannot be read from the store: {error}") from None
    assembled = assemble(layouts, stored, stored.items, exposure["user_id"], layouts.context.default_row, now_ms)
    put_counters(layouts, assembled.inputs, stored, exposure["scene"], now_ms)
    inputs = dict(request.inputs) | assembled.inputs | _of_request(request, assembled.inputs)
    return PresentRequest(replace(request, inputs=inputs, compared=None), _notes(request, stored, assembled))


async def _fetched(request: LoggedRequest, layouts: Layouts, redis_url: str, now_ms: int) -> StoredRows:
    before = now_ms - layouts.lag_ms if layouts.lag_ms else now_ms + 1
    store = open_store(redis_url, _TIMEOUT_MS)
    try:
        return await store.fetch(
            layouts,
            request.exposure["user_id"],
            request.item_ids,
            _TIMEOUT_MS / 1000,
            before,
            scene=request.exposure["scene"],
        )
    finally:
        store.close()


def _of_request(request: LoggedRequest, present: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that the request itself gave."""
    given_parts = request.exposure["of_request"] or ()
    names = ["context_keys", "context_numerics", *CANDIDATE_INPUTS]
    if "user" in given_parts:
        names += ["user_keys", "user_numerics"]
    if "behaviours" in given_parts:
        names += BEHAVIOUR_INPUTS
    inputs = {name: request.inputs[name] for name in names if name in request.inputs}
    # Which features of an item the request gave is not logged, so that its whole row stays.
    given_items = set(request.exposure["items_of_request"] or ())
    rows = [at for at, place in enumerate(sorted(request.exposure["places"])) if place in given_items]
    for name in ("item_keys", "item_numerics"):
        inputs[name] = present[name].copy()
        inputs[name][rows] = request.inputs[name][rows]
    return inputs


def _notes(request: LoggedRequest, stored: StoredRows, assembled: Assembled) -> list[str]:
    notes = []
    given_parts = request.exposure["of_request"] or ()
    if assembled.unknown_user and "user" not in given_parts:
        notes.append("the store has no row of the user now")
    if assembled.unknown_items:
        notes.append(f"the store has no row of {assembled.unknown_items} of {len(request.item_ids)} items now")
    if stored.unread:
        notes.append(f"{stored.unread} rows cannot be read now: their node is away")
    given_items = len(request.exposure["items_of_request"] or ())
    if given_items or given_parts:
        parts = [f"its {name}" for name in given_parts]
        parts += [f"features of {given_items} of its items"] if given_items else []
        notes.append(f"the request gave {', '.join(parts)}: these stay as they were")
    return notes
