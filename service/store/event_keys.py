"""Computes the key of an event, which distinguishes behaviours of one user at the same time."""

import hashlib
from collections.abc import Sequence

from features.keys import text_of
from features.layouts import EVENT_KEY_BYTES


def identity(*parts: object) -> bytes:
    """Return sixteen bytes that identify a sequence of parts."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode(errors="surrogatepass")).digest()[:16]


def event_keys(
    item_ids: Sequence[str],
    actions: Sequence[object],
    scenes: Sequence[object],
    event_ids: Sequence[str | None] | None = None,
) -> list[bytes]:
    """Return eight bytes per event: a hash of its id or, if it has none, of item, action and scene."""
    texts = {value: text_of(value, "action or scene") for value in {*actions, *scenes}}
    plain = [
        f"{item}\x1f{texts[action]}\x1f{texts[scene]}"
        for item, action, scene in zip(item_ids, actions, scenes, strict=True)
    ]
    if event_ids is not None:
        pairs = zip(plain, event_ids, strict=True)
        plain = [text if event_id is None else f"id\x1f{event_id}" for text, event_id in pairs]
    return [hashlib.sha256(text.encode()).digest()[:EVENT_KEY_BYTES] for text in plain]
