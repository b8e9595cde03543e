"""Follows the documents of a registry: reads a document when its file is replaced, in a thread with a time limit."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Generic, NamedTuple

from service.documents import Document, RevisionedDocument
from service.files import FileSignature, run_limited
from service.fusion import FusionProfiles
from service.fusion import document as fusion_document
from service.fusion.document import FusionDocument
from service.metrics.metrics import Metrics
from service.objects.copies import copy_problem
from service.rollout import rollout as rollout_document
from service.rollout.rollout import Rollout
from service.rollout.serving import ServingLine
from service.rules.definition import document as rules_document
from service.rules.definition.document import RulesDocument

log = logging.getLogger("funnelrank.live")
LOOK_SECONDS = 2.0
_MOST_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class News(Generic[Document]):
    """A changed file: its document (None if there is none), and the problem if it cannot be followed.

    With a problem and a document, the document is the last good one.
    """

    document: Document | None
    problem: str | None = None

    @property
    def warning(self) -> str:
        """The problem, and which document is followed instead."""
        return f"{self.problem}; the last good document is followed" if self.document else str(self.problem)


class FollowedDocument(Generic[Document]):
    """One document of a registry, as one worker follows it."""

    def __init__(self, document: RevisionedDocument[Document], registry: Path) -> None:
        self._document = document
        self._registry = registry
        self._signature: FileSignature | None = None
        self._looked = False
        self._is_followed = False  # a document was read, so that its absence is a fault

    def look(self, use_last_good: bool) -> News[Document] | None:
        """Return the changes since the last call, None if there are none. Reads files.

        With `use_last_good`, if the document is broken or has disappeared, the last good one is read instead: a worker
        that serves keeps its versions.
        """
        signature = self._document.signature(self._registry)
        if self._looked and signature == self._signature:
            return None
        news = self._read(use_last_good)
        # Set last, so that a look that raised or was abandoned is repeated.
        self._signature = signature
        self._looked = True
        return news

    def _read(self, use_last_good: bool) -> News[Document]:
        try:
            document = self._document.read(self._registry)
        except self._document.unreadable as error:
            problem = str(error)
        else:
            self._is_followed = self._is_followed or document is not None
            if document is not None or not self._is_followed:
                return News(document)
            problem = f"{self._registry / self._document.file} is gone"
        if not use_last_good:
            return News(None, problem)
        try:
            return News(self._document.read_last_good(self._registry), problem)
        except self._document.unreadable:
            return News(None, problem)


class RegistryNews(NamedTuple):
    """The changes since the last look; None for a document without a change."""

    rollout: News[Rollout] | None = None
    fusion: News[FusionDocument] | None = None
    rules: News[RulesDocument] | None = None


class FollowedDocuments:
    """The three documents of a registry, as one worker follows them."""

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self.copy_problem: str | None = None  # why a copy may be older than its object store; None: it is no copy
        self._rollout = FollowedDocument(rollout_document.DOCUMENT, registry)
        self._fusion = FollowedDocument(fusion_document.DOCUMENT, registry)
        self._rules = FollowedDocument(rules_document.DOCUMENT, registry)

    def look(self, use_last_good: bool) -> RegistryNews:
        """Return the changes since the last call. Reads files."""
        self.copy_problem = copy_problem(self._registry)
        rollout = self._rollout.look(use_last_good)
        fusion = self._fusion.look(use_last_good)
        return RegistryNews(rollout, fusion, self._rules.look(use_last_good))


class FollowedRegistry:
    """Follows the rollout, fusion and rules documents of a registry.

    `started_with` are the profiles that hold if there is no fusion document.
    """

    def __init__(self, registry: Path, started_with: FusionProfiles | None, metrics: Metrics) -> None:
        self.started_with = started_with
        self._metrics = metrics
        self._documents = FollowedDocuments(registry)
        self._news: list[RegistryNews] = []
        self._looking = False
        self._hangs = False

    @property
    def copy_problem(self) -> str | None:
        """Why the registry may be older than its object store, empty if it is not; None if it is in a folder."""
        return self._documents.copy_problem

    async def look(self, serving: bool) -> RegistryNews:
        """Return the changes of the documents.

        If the registry hangs, there are no changes until it answers; rankings go on.
        """
        if not self._looking:
            try:
                await run_limited(partial(self._read, serving), LOOK_SECONDS, "the registry")
            except TimeoutError as error:
                self._note_hanging(error.strerror)
            else:
                self._note_hanging(None)
        if self.copy_problem is not None:
            self._metrics.document_errors.labels("object_store").set(int(self.copy_problem != ""))
        newest = RegistryNews()
        while self._news:
            later = self._news.pop(0)
            newest = RegistryNews(
                later.rollout or newest.rollout, later.fusion or newest.fusion, later.rules or newest.rules
            )
        return newest

    def repeat(self, news: RegistryNews) -> None:
        """Return news that could not be taken up with the next look again, unless their document changes meanwhile."""
        self._news.insert(0, news)

    def _read(self, serving: bool) -> None:
        """Store changes in `_news`, so that they are not lost if the read ends after its time limit."""
        # Set here, because no thread begins if too many wait already; the next look then tries again.
        self._looking = True
        try:
            self._news.append(self._documents.look(not serving))
        finally:
            self._looking = False

    def _note_hanging(self, problem: str | None) -> None:
        hangs = problem is not None
        if hangs == self._hangs:
            return
        self._hangs = hangs
        self._metrics.document_errors.labels("registry").set(int(hangs))
        if hangs:
            log.error("%s; the live versions stay", problem)
        else:
            log.info("the registry answers again")


@dataclass
class PendingWork:
    """State between steps: the document that is followed, and whether and when it is tried again."""

    rollout: Rollout | None = None
    waits_for_schema: bool = False
    unfinished: bool = False
    retry_at: float = 0.0
    retry_seconds: float = 1.0
    frees_memory: bool = False

    def begin(self) -> None:
        """Record an attempt; if it does not finish, the next one waits twice as long."""
        self.waits_for_schema = False
        self.unfinished = True
        self.retry_at = monotonic() + self.retry_seconds
        self.retry_seconds = min(2 * self.retry_seconds, _MOST_RETRY_SECONDS)

    def is_due(self, lines: Iterable[ServingLine]) -> bool:
        """Return whether the document is to be tried again, beside the lines that serve."""
        if self.rollout is None:
            return False
        if self.waits_for_schema:
            return True
        unfinished = self.unfinished or any(line.stable is None or line.stable.instead_of != "" for line in lines)
        return unfinished and monotonic() >= self.retry_at
