"""Holds the keys that one worker accepts, and follows the callers document."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from hmac import compare_digest
from time import monotonic

from service.callers.document import (
    CALLERS_FILE,
    Caller,
    CallerKey,
    CallerRole,
    CallersDocument,
    hash_of,
    read_followed_callers,
)
from service.callers.rate import TokenBucket
from service.clock import now_ms
from service.errors import StoreUnavailable
from service.files import FileSignature, file_signature, run_limited
from service.metrics.metrics import Metrics
from service.settings import Settings
from service.store.base import FeatureWriter

log = logging.getLogger("funnelrank.callers")
MOST_KEY_BYTES = 512  # longer texts are not hashed
_LOOK_SECONDS = 2.0
ADMIN = "admin token"


class Grant:
    """What one key permits. `used_at` is the time of its last request (monotonic seconds), 0 for never."""

    __slots__ = ("bucket", "digest", "expires_ms", "key_id", "name", "role", "used_at")

    def __init__(self, name: str, role: CallerRole, key_id: str, digest: bytes, expires_ms: int | None) -> None:
        self.name = name
        self.role = role
        self.key_id = key_id
        self.digest = digest
        self.expires_ms = expires_ms
        self.bucket: TokenBucket | None = None
        self.used_at = 0.0


class Callers:
    """The callers of one worker.

    `grants` are the accepted keys by hash; None if there is no callers document. Until the document has been read for
    the first time, only the admin token is accepted.
    """

    def __init__(self, settings: Settings, writer: FeatureWriter, metrics: Metrics) -> None:
        self._settings = settings
        self._writer = writer
        self._metrics = metrics
        self._signature: FileSignature | None = None
        self._looking = False
        self.is_read = False  # whether the first look is over, however it ended
        self.document: CallersDocument | None = None
        self.problem = "the callers document has not been read yet"
        self.grants: Mapping[bytes, Grant] | None = self._grants(CallersDocument(revision=0), {})

    def grant_of(self, key: bytes) -> Grant | None:
        """Return what a key permits; None if it is unknown or has expired."""
        grants = self.grants
        if grants is None or len(key) > MOST_KEY_BYTES:
            return None
        digest = hash_of(key)
        # A caller cannot choose the hash of a guess, so the time of the lookup tells nothing about a key.
        grant = grants.get(digest)
        if grant is None or not compare_digest(digest, grant.digest):
            return None
        if grant.expires_ms is not None and now_ms() >= grant.expires_ms:
            return None
        return grant

    async def follow(self) -> None:
        """Take up changes of the document and write the last uses, until cancelled."""
        await asyncio.gather(self._repeat(self.step), self._repeat(self.write_uses))

    async def step(self) -> None:
        """Take up a change of the document. If the registry hangs, the present keys stay."""
        # The thread of a look that hangs is still there.
        if self._looking:
            return
        try:
            await run_limited(self._look, _LOOK_SECONDS, "the registry")
        except TimeoutError as error:
            self._note(f"{CALLERS_FILE}: {error.strerror}")

    async def write_uses(self) -> None:
        """Write the times of the last uses to the store. If it is away, a later call writes them."""
        now = monotonic()
        used = [grant for grant in (self.grants or {}).values() if grant.used_at and grant.name != ADMIN]
        if not used:
            return
        times = {grant.key_id: now_ms() - int(1000 * (now - grant.used_at)) for grant in used}
        before = {grant: grant.used_at for grant in used}
        try:
            await self._writer.record_uses(times)
        except StoreUnavailable as error:
            log.debug("the last uses of keys were not written: %s", error)
            return
        for grant in used:
            if grant.used_at == before[grant]:
                grant.used_at = 0.0

    async def last_uses(self) -> Mapping[str, int]:
        """Return the time of the last use (ms) by key id, over all workers and hosts. Raises StoreUnavailable."""
        await self.write_uses()
        return await self._writer.last_uses()

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._settings.rollout_poll_ms / 1000)
            try:
                await step()
            except Exception:
                log.exception("following the callers failed; it is tried again")

    def _look(self) -> None:
        """Read the document if its file has changed, or could not be used before. Runs in a thread."""
        self._looking = True
        try:
            signature = file_signature(self._settings.registry / CALLERS_FILE)
            if signature == self._signature and not self.problem:
                return
            document, problem = read_followed_callers(self._settings.registry)
            self._take_up(document, problem)
            self._signature = signature
            self.is_read = True
        finally:
            self._looking = False

    def _take_up(self, document: CallersDocument | None, problem: str) -> None:
        if document is None and not problem and self.document is not None:
            # The folder may be unmounted. A service that asked for keys opens by a restart alone.
            problem = f"{CALLERS_FILE} and its copy are gone"
        self._note(problem)
        if document is None:
            if not problem:
                self.grants = None
            return
        if document != self.document:
            self.grants = self._grants(document, self.grants or {})
            self.document = document
            log.info("callers is at revision %d: %d callers", document.revision, len(document.callers))

    def _note(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        self._metrics.document_errors.labels("callers").set(int(bool(problem)))
        if problem:
            log.error("%s; the last keys stay in use", problem)

    def _grants(self, document: CallersDocument, before: Mapping[bytes, Grant]) -> dict[bytes, Grant]:
        """Return the accepted keys of a document, and the admin token's. What earlier grants counted goes on."""
        by_name = {grant.name: grant for grant in before.values()}
        grants: dict[bytes, Grant] = {}
        for caller in document.callers:
            bucket = self._bucket(caller, by_name.get(caller.name))
            for key in caller.keys:
                grant = _grant(caller, key)
                grant.bucket = bucket
                grants[grant.digest] = grant
        token = self._settings.admin_token.get_secret_value()
        if token:
            digest = hash_of(token.encode())
            grants[digest] = Grant(ADMIN, CallerRole.OPERATE, "", digest, None)
        for digest in grants.keys() & before.keys():
            grants[digest].used_at = before[digest].used_at
        return grants

    def _bucket(self, caller: Caller, before: Grant | None) -> TokenBucket | None:
        if caller.rate is None:
            return None
        rate = caller.rate / self._settings.workers
        if before is not None and before.bucket is not None and before.bucket.rate == rate:
            return before.bucket
        return TokenBucket(rate, monotonic())


def _grant(caller: Caller, key: CallerKey) -> Grant:
    expires_ms = int(key.expires_at.timestamp() * 1000) if key.expires_at else None
    return Grant(caller.name, caller.role, key.id, bytes.fromhex(key.sha256), expires_ms)
