"""The answers and errors of an object store, without its client library."""

import errno
from dataclasses import dataclass


class ObjectStoreAway(OSError):  # noqa: N818 - a state, not a mistake
    """An object store that does not answer, or refuses a call however often it is made; `strerror` says why."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return str(self.strerror)


class ReplacedMeanwhile(Exception):  # noqa: N818 - a state, not a mistake
    """A conditional write that was refused: the object is another one by now."""


@dataclass(frozen=True)
class StoredObject:
    """The content of an object, and the ETag that the store gave it; in Google Cloud Storage also its generation."""

    content: bytes
    etag: str


@dataclass(frozen=True)
class Look:
    """The answer to the question for a new version of an object: `stored` is None if there is no such object."""

    changed: bool
    stored: StoredObject | None = None


def plain_tag(tag: str) -> str:
    """An ETag as lists and reads give it alike: Azure's lists have no quotes, and reads add Google's generation."""
    return tag.partition(" ")[0].strip('"')
