"""Says which part of a revisioned document a change withdraws and a rollback restores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Entry = Mapping[str, Any]
_NEWEST_OF_LABEL = 10
_MOST_ENTRIES = 250


class DocumentPart(Protocol):
    """A part of a document, and of each entry of its history; both are raw JSON."""

    def state_of(self, entry: Entry) -> dict[str, Any]:
        """The part of an entry; empty if the entry does not have it."""

    def is_withdrawn(self, entry: Entry) -> bool:
        """Whether a rollback left this state, so that a later rollback does not return to it."""

    def withdraw(self, entry: Entry) -> dict[str, Any]:
        """A copy of an entry whose part is withdrawn."""

    def restore(self, present: Entry, past: Entry) -> dict[str, Any]:
        """The content of `present` with the part of `past`."""


@dataclass(frozen=True)
class Whole:
    """The named fields at the top of a document."""

    names: tuple[str, ...]

    def state_of(self, entry: Entry) -> dict[str, Any]:
        return {name: entry[name] for name in self.names if name in entry}

    def is_withdrawn(self, entry: Entry) -> bool:
        return bool(entry.get("withdrawn"))

    def withdraw(self, entry: Entry) -> dict[str, Any]:
        return {**entry, "withdrawn": True}

    def restore(self, present: Entry, past: Entry) -> dict[str, Any]:
        return self.state_of(past)


def newest_entries(entries: Sequence[dict[str, Any]], length: int, label: str | None) -> list[dict[str, Any]]:
    """Return the newest entries of a history and, beyond its length, the 10 newest of each value of a label.

    So many changes of one part do not push out the earlier states of another.
    """
    stays = list(entries[:length])
    if label is None:
        return stays
    counts = Counter(_text_of(entry, label) for entry in stays)
    for entry in entries[length:_MOST_ENTRIES]:
        counts[_text_of(entry, label)] += 1
        if counts[_text_of(entry, label)] <= _NEWEST_OF_LABEL:
            stays.append(entry)
    return stays


def _text_of(entry: Entry, label: str) -> str:
    """The label of an entry as a text. In a document that was edited by hand it may be a list."""
    return repr(entry.get(label))
