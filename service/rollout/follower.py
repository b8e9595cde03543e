"""Owns what this worker serves with: it follows the rollout and fusion documents and swaps versions without a request noticing.

Load, checks, gate and warm-up run in a thread; then one assignment to `serving`. A request takes its version once and keeps it, so an old
session is freed with its last request. A version that fails is refused, logged and counted, and the one in use goes on.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

from features.layouts import Layouts
from service.bundle.loading import load_bundle
from service.bundle.manifest import Manifest
from service.bundle.registry import Target, folder_of
from service.bundle.verify import BundleRejected, read_manifest
from service.documents import FileSignature, file_signature, now
from service.errors import Conflict
from service.fusion import Fusion, FusionError, FusionProfiles, bind, plain_profiles
from service.fusion.document import FUSION_FILE, read_followed_fusion, read_fusion
from service.metrics.metrics import Metrics
from service.rollout.background import Background, trim_memory
from service.rollout.gate import GATE_CODES, GateReport, gate
from service.rollout.observers import Observers
from service.rollout.rollout import (
    AUTOMATIC,
    Rollout,
    RolloutUnreadable,
    change_rollout,
    read_followed,
    read_rollout,
    roll_back,
    signature,
)
from service.rollout.serving import SCHEMA_NOT_LOADED, Live, NotServing, Role, ServingSnapshot
from service.settings import Settings
from service.store.base import FeatureStore
from service.store.schemas import SchemaCheck, check_schema

log = logging.getLogger("funnelrank.live")
SCHEMA_DIFFERS = "schema_differs"
_REFUSALS_KEPT = 20


@dataclass(frozen=True)
class Refusal:
    """A version or a document that this worker would not take, and why."""

    target: str
    code: str
    detail: str
    at: str


def numerics_of(manifest: Manifest) -> tuple[str, ...]:
    """The item's numerics in the order of `item_numerics`."""
    return tuple(Layouts.of(manifest.feature_schema).item.numeric_columns)


class Follower:
    """What one worker serves with."""

    def __init__(
        self, settings: Settings, profiles: FusionProfiles | None, reader: FeatureStore, metrics: Metrics
    ) -> None:
        self._settings = settings
        self.started_with = profiles
        self.reader = reader
        self._metrics = metrics
        self._seen: FileSignature | None = None
        self._seen_fusion: FileSignature | None = None
        self._waits_for_schema = False
        self._told: dict[str, str] = {}
        self.snapshot = ServingSnapshot(profiles=profiles)
        self.observers = Observers(metrics)
        self._background = Background()
        self._have_gone = False  # versions, since memory was last given back
        self.status = metrics.records
        self.gates: dict[str, GateReport] = {}
        self.store: SchemaCheck = SchemaCheck(reachable=False, loaded=frozenset(), problem=None)
        self.refusals: deque[Refusal] = deque(maxlen=_REFUSALS_KEPT)

    @property
    def live(self) -> Live | None:
        return self.snapshot.stable

    @property
    def profiles(self) -> FusionProfiles | None:
        return self.snapshot.profiles

    def current(self) -> Live:
        """The stable version. Raises NotReady."""
        return self.snapshot.current()

    async def follow(self) -> None:
        """Look at the documents and at the store again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.rollout_poll_ms / 1000)
            try:
                await self.step()
            except Exception:
                log.exception("following the rollout failed; the next look is in %d ms", self._settings.rollout_poll_ms)

    async def step(self) -> None:
        """Take up what the documents ask for, where they have changed; look at what the store holds and how a canary does."""
        self._follow_fusion()
        if self._have_gone:  # a poll later no request holds them any more
            self._have_gone = False
            await self._background.run(trim_memory)
        seen = signature(self._settings.registry)
        changed = seen != self._seen
        if changed:
            self._seen = seen
            self._told.clear()
        if changed or self._waits_for_schema or (seen is None and not self.refusals):
            await self._take_up()
        if self.live is not None:
            self.store = await check_schema(self.reader, self.live.bundle.layouts)
        self._state_readiness()
        await self._judge_canary()
        self.status.tell(self.described())

    def close(self) -> None:
        self.observers.close()
        self._background.close()

    def described(self) -> dict[str, Any]:
        """What `GET /models` says of this worker."""
        shown: dict[str, Any] = {"pid": os.getpid()} | self.snapshot.described()
        shown["refused"] = [
            {"model": r.target, "code": r.code, "detail": r.detail, "at": r.at} for r in reversed(self.refusals)
        ]
        labels = {live.bundle.label for live in self.snapshot.loaded()}
        shown["gate"] = {label: asdict(report) for label, report in self.gates.items() if label in labels}
        return shown

    def bound(self, manifest: Manifest, profiles: FusionProfiles | None = None) -> Fusion:
        """Profiles (those in force by default) bound to a model. Raises FusionError."""
        return bind(profiles or self.profiles or plain_profiles(manifest), manifest.task_names, numerics_of(manifest))

    def _follow_fusion(self) -> None:
        """Bind new profiles to every loaded version; where they are broken or fit one of them not, the old ones go on."""
        registry = self._settings.registry
        seen = file_signature(registry / FUSION_FILE)
        if seen == self._seen_fusion:
            return
        first = self._seen_fusion is None and self.live is None
        self._seen_fusion = seen
        try:
            profiles = self._read_fusion(first) or self.started_with
            bound: dict[str, Any] = {
                live.role.value: replace(live, fusion=self._fusion_of(live, profiles))
                for live in self.snapshot.loaded()
            }
        except FusionError as error:
            self._metrics.document_errors.labels("fusion").set(1)
            self._told.pop(FUSION_FILE, None)
            self._refuse(FUSION_FILE, "fusion_refused", str(error))
            return
        self.snapshot = replace(self.snapshot, profiles=profiles, **bound)
        log.info("fusion is at revision %d", profiles.revision if profiles else 0)

    def _read_fusion(self, first: bool) -> FusionProfiles | None:
        """The document; at the start its last good state serves too. Raises FusionError."""
        registry = self._settings.registry
        try:
            document = read_fusion(registry)
            self._metrics.document_errors.labels("fusion").set(0)
        except FusionError as error:
            if not first:
                raise
            document = read_followed_fusion(registry)
            self._metrics.document_errors.labels("fusion").set(1)
            self._refuse(FUSION_FILE, "fusion_refused", f"{error}; the last good document is followed")
        return document

    def _fusion_of(self, live: Live, profiles: FusionProfiles | None) -> Fusion:
        manifest = live.bundle.manifest
        return bind(profiles or plain_profiles(manifest), manifest.task_names, numerics_of(manifest))

    async def _take_up(self) -> None:
        self._waits_for_schema = False
        try:
            rollout = self._read()
        except RolloutUnreadable as error:
            self._metrics.document_errors.labels("rollout").set(1)
            self._refuse("rollout.json", "rollout_unreadable", str(error))
            return
        wanted: dict[Role, Target | None] = {
            Role.STABLE: rollout.stable,
            Role.CANARY: rollout.canary,
            Role.SHADOW: rollout.shadow,
        }
        missing = self._rearranged(rollout, wanted)
        for role in missing:
            await self._fill(role, wanted, rollout)

    def _read(self) -> Rollout:
        """The document; at the start its last good state serves too."""
        registry = self._settings.registry
        try:
            document = read_rollout(registry)
            self._metrics.document_errors.labels("rollout").set(0)
        except RolloutUnreadable as error:
            if self.live is not None:
                raise
            document = read_followed(registry)
            self._metrics.document_errors.labels("rollout").set(1)
            self._refuse(
                "rollout.json",
                "rollout_unreadable",
                f"{error}; revision {document.revision}, the last good one, is followed",
            )
        return document

    def _rearranged(self, rollout: Rollout, wanted: Mapping[Role, Target | None]) -> list[Role]:
        """Give what is loaded already its new role at once, and drop what has none; the roles that are to be loaded yet."""
        before = self.snapshot
        have = {live.bundle.label: live for live in before.loaded()}
        after: dict[str, Any] = {"stable": before.stable, "canary": None, "shadow": None}
        missing: list[Role] = []
        for role, target in wanted.items():
            found = have.get(str(target)) if target is not None else None
            if found is not None:
                after[role.value] = replace(found, role=role, revision=rollout.revision)
            elif target is not None:
                missing.append(role)
        percent = rollout.canary.percent if rollout.canary else 0.0
        self._assign(replace(before, **after, percent=percent, limits=rollout.limits))
        return missing

    async def _fill(self, role: Role, wanted: Mapping[Role, Target | None], rollout: Rollout) -> None:
        target = wanted[role]
        assert target is not None
        try:
            found = next(
                (x for x in self.snapshot.loaded() if x.bundle.label == str(target)), None
            )  # canary and shadow may be one version
            live = replace(found, role=role) if found else await self._loaded(role, target, rollout)
            filled: dict[str, Any] = {role.value: live}
            self._assign(replace(self.snapshot, **filled))
            self._told.pop(str(target), None)
        except BundleRejected as error:
            self._refuse(str(target), error.code, error.detail)
            if error.code in GATE_CODES:
                await self._withdraw(role, rollout, f"{role} {target}: {error.code}: {error.detail}")
        except FusionError as error:
            self._refuse(str(target), "fusion_mismatch", str(error))

    async def _loaded(self, role: Role, target: Target, rollout: Rollout) -> Live:
        """A version that may take requests. Cheap doubts come first, so that a refusal costs nothing."""
        settings = self._settings
        started = perf_counter()
        stable = self.live
        folder = folder_of(settings.registry, target)
        manifest = read_manifest(folder, settings.trusted_keys)
        fusion = self.bound(manifest)
        if stable is not None:
            if role == Role.SHADOW and manifest.fingerprint != stable.bundle.layouts.fingerprint:
                raise BundleRejected(
                    SCHEMA_DIFFERS,
                    f"a shadow scores the stable version's inputs, and {target} has another feature schema",
                )
            found = await check_schema(self.reader, Layouts.of(manifest.feature_schema))
            if found.problem is not None:
                self._waits_for_schema = True
                raise BundleRejected(SCHEMA_NOT_LOADED, found.problem)
        largest = min(settings.score_chunk, settings.max_candidates)
        bundle = await self._background.run(load_bundle, folder, settings.model_threads, largest, settings.trusted_keys)
        if stable is not None and rollout.restores is None:
            alike = (
                bundle.layouts.fingerprint == stable.bundle.layouts.fingerprint
            )  # another schema's inputs the live version cannot score
            recent = self.observers.recent.of(bundle.layouts.fingerprint) if alike else []
            self.gates[bundle.label] = await self._background.run(gate, bundle, stable.bundle, recent, rollout.limits)
        self._metrics.load_seconds.observe(perf_counter() - started)
        self._metrics.swaps.labels("taken").inc()
        return Live(bundle, fusion, role, rollout.revision)

    def _assign(self, after: ServingSnapshot) -> None:
        before = self.snapshot
        self.snapshot = after
        self._state_readiness()
        self.observers.follow(after)
        if {id(x.bundle) for x in before.loaded()} - {id(x.bundle) for x in after.loaded()}:
            self._have_gone = True
        were, are = (
            {(x.bundle.manifest.name, x.bundle.manifest.version, x.role) for x in s.loaded()} for s in (before, after)
        )
        for name, version, role in were - are:
            self._metrics.model_info.labels(name, version, role).set(0)
        for name, version, role in are:
            self._metrics.model_info.labels(name, version, role).set(1)
        self.gates = {
            label: report
            for label, report in self.gates.items()
            if any(x.bundle.label == label for x in after.loaded())
        }
        if after.stable is not None:
            self._metrics.ready.set(1)
        for place in Role:
            old = before.in_role(place)
            new = after.in_role(place)
            if new is not None and (old is None or old.bundle is not new.bundle):
                told = {"fields": {"before": old.bundle.label if old else None}}
                log.info(
                    "model %s is in use%s", new.bundle.label, "" if place == Role.STABLE else f" as {place}", extra=told
                )

    def _refuse(self, target: str, code: str, detail: str) -> None:
        if self._told.get(target) == code:
            return
        self._told[target] = code
        self.refusals.append(Refusal(target, code, detail, now()))
        self._metrics.swaps.labels(code).inc()
        still = self.live.bundle.label if self.live else "none"
        log.error("refused %s: %s: %s", target, code, detail, extra={"fields": {"in_use": still}})

    def _state_readiness(self) -> None:
        """Say in the snapshot whether it can rank."""
        problem: NotServing | None = None
        if self.live is None:
            last = self.refusals[-1] if self.refusals else None
            problem = NotServing(
                f"no model is loaded: {last.code}: {last.detail}" if last else "no model is loaded yet"
            )
        elif self.store.problem is not None:
            problem = NotServing(f"{SCHEMA_NOT_LOADED}: {self.store.problem}", SCHEMA_NOT_LOADED)
        if problem != self.snapshot.not_serving:
            self.snapshot = replace(self.snapshot, not_serving=problem)

    async def _judge_canary(self) -> None:
        canary = self.snapshot.canary
        if canary is None:
            return
        verdict = self.observers.canary.verdict(self.snapshot.limits)
        if verdict is None:
            return
        self._refuse(canary.bundle.label, "canary_broke_limits", verdict)
        self._assign(replace(self.snapshot, canary=None, percent=0.0))
        await self._withdraw(Role.CANARY, None, f"canary {canary.bundle.label}: {verdict}", canary.revision)

    async def _withdraw(self, role: Role, rollout: Rollout | None, reason: str, revision: int | None = None) -> None:
        """Take a version out of the document for all workers, unless somebody has changed it meanwhile."""
        registry = self._settings.registry
        expected = rollout.revision if rollout else revision
        try:
            if role == Role.STABLE:
                await asyncio.to_thread(roll_back, registry, AUTOMATIC, reason=reason, expected_revision=expected)
            else:
                await asyncio.to_thread(
                    change_rollout,
                    registry,
                    {role.value: None},
                    AUTOMATIC,
                    reason=reason,
                    expected_revision=expected,
                    withdraws=True,
                )
        except (Conflict, OSError) as error:
            log.warning("the rollout document was not changed: %s", error, extra={"fields": {"reason": reason}})
            return
        self._metrics.rollbacks.labels(role.value).inc()
        log.error("rolled back by itself: %s", reason)
