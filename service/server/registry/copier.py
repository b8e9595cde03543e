"""Copies a registry in an object store into its folder on this host: documents by their ETag, bundles as they go live.

A version is fetched before the rollout document that names it is taken, so that workers never wait for the network. If
the store is away, everything stays as it is.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from features.files.strict_json import parse_json
from features.files.writing import write_whole
from service.addresses.registry_address import shown
from service.bundle.fetching import FETCHING, fetch, was_replaced
from service.bundle.registry import Target, folder_of
from service.bundle.verify import BundleRejected, read_manifest, verified_files
from service.callers.document import DOCUMENT as CALLERS
from service.documents import DocumentUnreadable, RevisionedDocument
from service.documents.storage import last_good, writer_lock
from service.files import read_regular
from service.fusion.document import DOCUMENT as FUSION
from service.objects.answers import ObjectStoreAway, StoredObject
from service.objects.copies import look_at_document, take_document, write_state
from service.rollout.lines.view import versions_of
from service.rollout.rollout import DOCUMENT as ROLLOUT
from service.rollout.rollout import ROLLOUT_FILE, RolloutUnreadable, read_followed
from service.rules.definition.document import DOCUMENT as RULES

log = logging.getLogger("funnelrank.objects")
# The callers first, because a revoked key must not wait for a bundle.
_SMALL: tuple[RevisionedDocument[Any], ...] = (CALLERS, FUSION, RULES)
_REMOVED = ".removed-"
_ABANDONED_SECONDS = 3600.0


class RegistryCopier:
    """Copies one registry. `most_bytes` bounds the bundles that are neither live nor in the history."""

    def __init__(self, registry: Path, most_bytes: int) -> None:
        self._registry = registry
        self._most_bytes = most_bytes
        self._fetching: Thread | None = None
        self._fetched = ""  # the ETag of the rollout document whose versions were fetched, as far as they exist
        self._fetch_problem = ""
        self._reported = False

    def start(self) -> str:
        """Bring everything over, and fetch what is damaged again. Returns the problem, empty if there is none."""
        try:
            self._remove_abandoned()
            self._move_damaged_away()
        except OSError as error:
            return self._described(error)
        problem = self.step()
        while self._fetching is not None:
            self._fetching.join()
            if self._fetch_problem:
                return self._fetch_problem
            problem = self.step()
        self._evict()
        return problem

    def step(self) -> str:
        """Bring over what has changed. Returns the problem, empty if the store answers."""
        try:
            # Somebody may have removed the folder.
            self._registry.mkdir(mode=0o700, parents=True, exist_ok=True)
            for document in _SMALL:
                self._take(document)
            self._take_rollout()
            problem = self._fetch_problem
        except OSError as error:
            problem = self._described(error)
        # Texts of attempts differ in times, so one line is written until the store answers again.
        if (problem != "") != self._reported:
            self._reported = not self._reported
            if problem:
                log.error("the last state of the registry stays: %s", problem)
            else:
                log.info("the object store of the registry answers again")
        # A full disk takes the state away for a while, and nothing else.
        with suppress(OSError):
            write_state(self._registry, problem)
        return problem

    def _take(self, document: RevisionedDocument[Any]) -> None:
        known, look = look_at_document(self._registry, document.file)
        if look.changed and look.stored is not None:
            self._save(document, known, look.stored)

    def _take_rollout(self) -> None:
        """Take the rollout document once the versions that it names are there; a thread fetches them."""
        if self._fetching is not None:
            if self._fetching.is_alive():
                return
            self._fetching = None
        known, look = look_at_document(self._registry, ROLLOUT_FILE)
        if not look.changed or look.stored is None:
            self._fetch_problem = ""
            return
        named = self._named_by(look.stored)
        self._remove_replaced(named)
        absent = [folder for folder in named if not folder.is_dir()]
        # A version that does not exist stays absent, and the workers say so.
        if absent and self._fetched != look.stored.etag:
            self._fetching = Thread(target=self._fetch, args=(absent, look.stored.etag), name="fetch", daemon=True)
            self._fetching.start()
            return
        self._save(ROLLOUT, known, look.stored)
        self._fetched = ""  # whatever removes the copy, the same document is not taken without its versions
        self._fetch_problem = ""
        self._evict()

    def _fetch(self, folders: list[Path], etag: str) -> None:
        try:
            for folder in folders:
                fetch(folder)
        except OSError as error:
            self._fetch_problem = self._described(error)
        except Exception as error:
            # Without a problem, it would be fetched again at once, and for ever.
            log.exception("the versions of the next state could not be fetched")
            self._fetch_problem = f"{type(error).__name__}: {error}"
        else:
            self._fetched = etag
            self._fetch_problem = ""

    def _described(self, error: OSError) -> str:
        """The problem of the store, or that of the folder of the copies."""
        if isinstance(error, ObjectStoreAway):
            return str(error)
        return f"{error.filename or self._registry}: {error.strerror} (FUNNELRANK_REGISTRY_CACHE)"

    def _named_by(self, stored: StoredObject) -> list[Path]:
        """The folders of the live versions; none if the document cannot be read, which is for the workers to say."""
        try:
            rollout = ROLLOUT.parsed(stored.content, ROLLOUT_FILE)
        except RolloutUnreadable:
            return []
        return [folder_of(self._registry, target) for target in versions_of(rollout).values()]

    def _save(self, document: RevisionedDocument[Any], known: str | None, stored: StoredObject) -> None:
        """Replace a document of the copy and, if it can be read, the last good one."""
        path = self._registry / document.file
        with writer_lock(self._registry):
            if not take_document(self._registry, document.file, known, stored):
                return
            try:
                document.parsed(stored.content, path)
            except DocumentUnreadable as error:
                log.error("%s", error)
            else:
                write_whole(last_good(path), stored.content)
        log.info("%s was brought over from the store", document.file)

    def _evict(self) -> None:
        """Remove the bundles that were fetched first, until the others fit; what the document names stays."""
        try:
            named = set(_targets_in(parse_json(read_regular(self._registry / ROLLOUT_FILE))))
        except (OSError, ValueError, RecursionError):
            return
        try:
            self._remove_beyond_limit(named)
        except OSError as error:
            # Another user's bundles, or another service that removes the same: the copy is larger, and all else holds.
            log.warning("a bundle of the copy could not be removed: %s", self._described(error))

    def _remove_beyond_limit(self, named: Set[str]) -> None:
        bundles = sorted((path for path in self._registry.glob("[!.]*/[!.]*") if path.is_dir()), key=_fetched_at)
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in bundles}
        size = sum(sizes.values())
        for path in bundles:
            if size <= self._most_bytes:
                return
            if f"{path.parent.name}/{path.name}" not in named:
                self._remove(path)
                size -= sizes[path]
                log.info("%s was removed from the copy (FUNNELRANK_REGISTRY_CACHE_MB)", shown(path))

    def _move_damaged_away(self) -> None:
        """Remove live versions that were damaged on this disk; they are fetched again."""
        for folder in self._serving():
            if not folder.is_dir():
                continue
            try:
                verified_files(folder, read_manifest(folder))
            except BundleRejected as error:
                log.error("the copy is fetched again: %s", error)
                self._remove(folder)
                _fetch_or_report(folder)

    def _remove_replaced(self, folders: list[Path]) -> None:
        """Remove versions that were published again since they were fetched, unless they serve now."""
        for folder in folders:
            if folder not in self._serving() and was_replaced(folder):
                log.warning("%s was published again, and is fetched again", shown(folder))
                self._remove(folder)

    def _serving(self) -> list[Path]:
        try:
            return [folder_of(self._registry, target) for target in versions_of(read_followed(self._registry)).values()]
        except RolloutUnreadable:
            return []

    def _remove(self, folder: Path) -> None:
        aside = Path(tempfile.mkdtemp(prefix=_REMOVED, dir=self._registry))
        folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        """Remove what killed processes have left."""
        for path in (*self._registry.glob(f"*/{FETCHING}*"), *self._registry.glob(f"{_REMOVED}*")):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _fetch_or_report(folder: Path) -> None:
    try:
        fetch(folder)
    except OSError as error:
        log.error("%s: %s", shown(folder), error.strerror)


def _fetched_at(folder: Path) -> float:
    return folder.stat().st_mtime


def _targets_in(value: Any) -> Iterator[str]:
    """Every version that a document or its history names, wherever it stands."""
    if isinstance(value, list):
        for one in value:
            yield from _targets_in(one)
    if not isinstance(value, dict):
        return
    if isinstance(value.get("name"), str) and isinstance(value.get("version"), str):
        yield str(Target.model_construct(name=value["name"], version=value["version"]))
    for one in value.values():
        yield from _targets_in(one)
