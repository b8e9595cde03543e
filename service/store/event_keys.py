"""Computes the key of an event, which distinguishes behaviours of one user at the same time."""

import hashlib
from collections.abc import Sequence

from features.keys import text_of
from features.layouts import EVENT_KEY_BYTES


def identity(*parts: object) -> bytes:
    """Return sixteen bytes that identify a sequence of parts; None is another part than any text."""
    digest = hashlib.sha256()
    for part in parts:
        # Ids may contain any character, so no separator is safe: the length says where a part ends.
        content = b"" if part is None else str(part).encode(errors="surrogatepass")
        digest.update(b"-" if part is None else b"%d:" % len(content))
        digest.update(content)
    return digest.digest()[:16]


def event_keys(
    item_ids: Sequence[str],
    actions: Sequence[object],
    scenes: Sequence[object],
    event_ids: Sequence[str | None] | None = None,
) -> list[bytes]:
    """Return eight bytes per event: a hash of its id or, if it has none, of item, action and scene."""
    texts = {value: text_of(value, "action or scene") for value in {*actions, *scenes}}
    plain = [
        f"{_escaped(item)}\x1f{_escaped(texts[action])}\x1f{_escaped(texts[scene])}"
        for item, action, scene in zip(item_ids, actions, scenes, strict=True)
    ]
    if event_ids is not None:
        pairs = zip(plain, event_ids, strict=True)
        plain = [text if event_id is None else f"id\x1f{_escaped(event_id)}" for text, event_id in pairs]
    return [hashlib.sha256(text.encode()).digest()[:EVENT_KEY_BYTES] for text in plain]


def _escaped(text: str) -> str:
    """A text without the separator. Texts that have no control characters stay as they are, and so do stored keys."""
    return text.replace("\x1e", "\x1e0").replace("\x1f", "\x1e1")
