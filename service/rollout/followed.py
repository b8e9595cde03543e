"""Follows the documents of a registry: reads a document whenever its file was replaced."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from service.documents import Document, FileSignature, RevisionedDocument


@dataclass(frozen=True)
class News(Generic[Document]):
    """What a changed file says: a document, None where there is none, and the problem where it cannot be followed.

    With a problem and a document, the document is the last good one.
    """

    document: Document | None
    problem: str | None = None


class FollowedDocument(Generic[Document]):
    """One document of a registry, as one worker follows it."""

    def __init__(self, document: RevisionedDocument[Document], registry: Path) -> None:
        self._document = document
        self._registry = registry
        self._signature: FileSignature | None = None
        self._looked = False

    def look(self, use_last_good: bool) -> News[Document] | None:
        """What is new since the last look, None where nothing is. Reads files.

        Where the document is broken, the last good one is read instead with `use_last_good`: a worker that serves goes on with what it has.
        """
        signature = self._document.signature(self._registry)
        if self._looked and signature == self._signature:
            return None
        news = self._read(use_last_good)
        # Set last: a look that raised or was given up is repeated.
        self._signature = signature
        self._looked = True
        return news

    def _read(self, use_last_good: bool) -> News[Document]:
        try:
            return News(self._document.read(self._registry))
        except self._document.unreadable as error:
            problem = str(error)
        if not use_last_good:
            return News(None, problem)
        try:
            return News(self._document.read_last_good(self._registry), problem)
        except self._document.unreadable:
            return News(None, problem)
