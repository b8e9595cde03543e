"""Owns what this worker serves with: it follows the rollout document and swaps bundles without a request noticing.

Load, checks and warm-up run in a thread; then one assignment to `current`. A request takes `current` once and keeps it, so an old session is
freed with its last request. A bundle that fails is refused, logged and counted, and the one in use goes on.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

from service.bundle import Bundle, load_bundle
from service.errors import NotReady
from service.fusion import Fusion, FusionError, FusionProfiles, bind, plain_profiles
from service.layouts import Layouts
from service.metrics import Metrics
from service.registry import Target, folder_of
from service.rollout import RolloutUnreadable, read_rollout, signature
from service.settings import Settings
from service.store.reader import Reader, SchemaCheck, check_schema
from service.verify import BundleRejected, read_manifest

log = logging.getLogger("funnelrank.live")
SCHEMA_NOT_LOADED = "schema_not_loaded"
_REFUSALS_KEPT = 20


@dataclass(frozen=True, eq=False)
class Live:
    """One bundle in use, with the fusion bound to it."""

    bundle: Bundle
    fusion: Fusion
    role: str
    revision: int


@dataclass(frozen=True)
class Refusal:
    """A version that this worker would not take, and why."""

    target: str
    code: str
    detail: str
    at: str


class Follower:
    """What one worker serves with."""

    def __init__(self, settings: Settings, profiles: FusionProfiles | None, reader: Reader, metrics: Metrics) -> None:
        self._settings = settings
        self.profiles = profiles
        self.reader = reader
        self._metrics = metrics
        self._seen: tuple[int, int, int] | None = None
        self._waits_for_schema = False
        self._refused_in_a_row: tuple[str, str] | None = None
        self.live: Live | None = None
        self.store: SchemaCheck = SchemaCheck(reachable=False, loaded=frozenset(), problem=None)
        self.refusals: deque[Refusal] = deque(maxlen=_REFUSALS_KEPT)

    def current(self) -> Live:
        """The bundle in use, to be taken once per request. Raises NotReady where there is none, or none that fits the store."""
        live = self.live
        if live is None:
            last = self.refusals[-1] if self.refusals else None
            raise NotReady(f"no model is loaded: {last.code}: {last.detail}" if last else "no model is loaded yet")
        if self.store.problem is not None:
            raise NotReady(f"{SCHEMA_NOT_LOADED}: {self.store.problem}", SCHEMA_NOT_LOADED)
        return live

    async def follow(self) -> None:
        """Look at the document and at the store again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.rollout_poll_ms / 1000)
            try:
                await self.step()
            except Exception:
                log.exception("following the rollout failed; the next look is in %d ms", self._settings.rollout_poll_ms)

    async def step(self) -> None:
        """Take up what the document asks for, where it has changed; look at what the store holds."""
        seen = signature(self._settings.registry)
        changed = seen != self._seen
        if changed:
            self._seen, self._refused_in_a_row = seen, None
        if changed or self._waits_for_schema or (seen is None and not self.refusals):
            await self._take_up()
        if self.live is not None:
            self.store = await check_schema(self.reader, self.live.bundle.layouts)

    async def _take_up(self) -> None:
        self._waits_for_schema = False
        target: Target | None = None
        try:
            rollout = read_rollout(self._settings.registry)
            target = rollout.stable
            if self.live is not None and self.live.bundle.label == str(target):
                self.live = replace(self.live, revision=rollout.revision)
                return
            self._use(await self._loaded(target, rollout.revision))
        except RolloutUnreadable as error:
            self._refuse("rollout.json", "rollout_unreadable", str(error))
        except BundleRejected as error:
            self._refuse(str(target), error.code, error.detail)
        except FusionError as error:
            self._refuse(str(target), "fusion_mismatch", str(error))

    async def _loaded(self, target: Target, revision: int) -> Live:
        """A bundle that may take requests. Cheap doubts come first, so that a refusal costs nothing."""
        settings, started = self._settings, perf_counter()
        folder = folder_of(settings.registry, target)
        manifest = read_manifest(folder)
        fusion = bind(self.profiles or plain_profiles(manifest), manifest.task_names)
        if self.live is not None:
            found = await check_schema(self.reader, Layouts.of(manifest.feature_schema))
            if found.problem is not None:
                self._waits_for_schema = True
                raise BundleRejected(SCHEMA_NOT_LOADED, found.problem)
        bundle = await asyncio.to_thread(load_bundle, folder, settings.model_threads, settings.max_candidates)
        self._metrics.load_seconds.observe(perf_counter() - started)
        return Live(bundle, fusion, "stable", revision)

    def _use(self, live: Live) -> None:
        before, self.live = self.live, live
        self._refused_in_a_row = None
        if before is not None:
            self._metrics.model_info.labels(before.bundle.manifest.name, before.bundle.manifest.version, before.role).set(0)
        self._metrics.model_info.labels(live.bundle.manifest.name, live.bundle.manifest.version, live.role).set(1)
        self._metrics.ready.set(1)
        self._metrics.swaps.labels("taken").inc()
        log.info("model %s is in use", live.bundle.label, extra={"fields": {"before": before.bundle.label if before else None}})

    def _refuse(self, target: str, code: str, detail: str) -> None:
        if self._refused_in_a_row == (target, code):
            return
        self._refused_in_a_row = (target, code)
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.refusals.append(Refusal(target, code, detail, at))
        self._metrics.swaps.labels(code).inc()
        still = self.live.bundle.label if self.live else "none"
        log.error("refused %s: %s: %s", target, code, detail, extra={"fields": {"in_use": still}})
