"""Follows the rollout and fusion documents, and swaps what one worker serves with, without a request noticing.

Documents are read and versions are loaded in threads; then one assignment to `snapshot`. A request takes its snapshot once and keeps it, so
that an old session is freed with its last request. A version that is refused is logged and counted, the one in use goes on, and the document
is changed back for all workers.
"""

import asyncio
import logging
import os
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from service.bundle.registry import Target
from service.bundle.verify import BundleRejected
from service.errors import Conflict
from service.files import run_attempt, run_limited
from service.fusion import FusionError, FusionProfiles
from service.fusion import document as fusion_document
from service.fusion.document import FUSION_FILE, FusionDocument
from service.metrics.metrics import Metrics
from service.rollout import rollout as rollout_document
from service.rollout.background import trim_memory
from service.rollout.followed import FollowedDocument, News
from service.rollout.loader import WAITING_CODES, VersionLoader
from service.rollout.observers import Observers
from service.rollout.records import RefusalLog, record_change
from service.rollout.rollout import ROLLOUT_FILE, Rollout
from service.rollout.serving import SCHEMA_NOT_LOADED, Live, NotServing, Role, ServingSnapshot, rearranged
from service.rollout.trial import try_profiles
from service.rollout.withdrawal import Withdrawal, withdraw
from service.settings import Settings
from service.store.base import FeatureStore
from service.store.schemas import check_schema

log = logging.getLogger("funnelrank.live")
LOOK_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_MOST_RETRY_SECONDS = 60.0
_WITHDRAWAL_SECONDS = 30.0
BothNews = tuple[News[Rollout] | None, News[FusionDocument] | None]


@dataclass
class Documents:
    """The two documents that a worker follows. `started_with` holds where there is no fusion document."""

    rollout: FollowedDocument[Rollout]
    fusion: FollowedDocument[FusionDocument]
    started_with: FusionProfiles | None
    looking: bool = False
    hangs: bool = False
    news: list[BothNews] = field(default_factory=list)

    def look(self, serving: bool) -> None:
        """Put what is new in both into `news`, also where nobody waits for it any more. Reads files."""
        try:
            self.news.append((self.rollout.look(not serving), self.fusion.look(not serving)))
        finally:
            self.looking = False


@dataclass
class Pending:
    """What a step leaves for the next: the document in force, when it is tried again, withdrawals that could not be written."""

    rollout: Rollout | None = None
    waits_for_schema: bool = False
    retry_at: float = 0.0
    retry_seconds: float = _RETRY_SECONDS
    withdrawals: list[Withdrawal] = field(default_factory=list)
    frees_memory: bool = False


class Follower:
    """Makes the serving snapshots of one worker, one after the other."""

    def __init__(
        self, settings: Settings, profiles: FusionProfiles | None, reader: FeatureStore, metrics: Metrics
    ) -> None:
        self.snapshot = ServingSnapshot(profiles=profiles)
        self.observers = Observers(metrics)
        self.refusals = RefusalLog(metrics)
        self.loader = VersionLoader(settings, reader, metrics)
        self._documents = Documents(
            FollowedDocument(rollout_document.DOCUMENT, settings.registry),
            FollowedDocument(fusion_document.DOCUMENT, settings.registry),
            profiles,
        )
        self._pending = Pending()

    @property
    def live(self) -> Live | None:
        return self.snapshot.stable

    @property
    def profiles(self) -> FusionProfiles | None:
        """The fusion profiles in force, None for the plain default."""
        return self.snapshot.profiles

    @property
    def registry(self) -> Path:
        return self.loader.settings.registry

    @property
    def reader(self) -> FeatureStore:
        return self.loader.reader

    @property
    def started_with(self) -> FusionProfiles | None:
        """The profiles that hold where there is no fusion document."""
        return self._documents.started_with

    def current(self) -> Live:
        """The stable version. Raises NotReady."""
        return self.snapshot.current()

    async def follow(self) -> None:
        """Take one step after the other, until cancelled."""
        while True:
            await asyncio.sleep(self.loader.settings.rollout_poll_ms / 1000)
            await self._guarded_step()

    async def _guarded_step(self) -> None:
        try:
            await self.step()
        except Exception:
            log.exception("following the documents failed; the next look is in a moment")

    async def step(self) -> None:
        """Take up what has changed in the documents, and look at the store and at the canary."""
        rollout, fusion = await self._look()
        if fusion is not None:
            await self._take_up_fusion(fusion)
        if self._pending.frees_memory:  # a step later no request holds the dropped versions any more
            self._pending.frees_memory = False
            await self.loader.background.run(trim_memory)
        if rollout is not None:
            self.refusals.forget()
            self._take_rollout(rollout)
            await self._take_up()
        elif self._is_due():
            await self._take_up()
        await self._check_store()
        await self._judge_canary()
        await self._withdraw_pending()
        self.loader.metrics.records.tell(self.described())

    def close(self) -> None:
        """End the threads of the observers."""
        self.observers.close()

    def described(self) -> dict[str, Any]:
        """What `GET /models` shows of this worker."""
        reports = self.loader.reports
        return {
            "pid": os.getpid(),
            **self.snapshot.described(),
            "refused": self.refusals.described(),
            "gate": {label: asdict(report) for label, report in reports.items()},
        }

    async def _look(self) -> BothNews:
        """Look at the documents, for a limited time: a registry that hangs stops nothing but its own changes."""
        documents = self._documents
        if not documents.looking:
            documents.looking = True
            try:
                await run_limited(partial(documents.look, self.live is not None), LOOK_SECONDS, "the registry")
            except TimeoutError as error:
                self._note_hanging(error.strerror)
            else:
                self._note_hanging(None)
        return documents.news.pop(0) if documents.news else (None, None)

    def _note_hanging(self, problem: str | None) -> None:
        documents = self._documents
        hangs = problem is not None
        if hangs == documents.hangs:
            return
        documents.hangs = hangs
        self.loader.metrics.document_errors.labels("registry").set(int(hangs))
        if hangs:
            log.error("%s; what is live stays live", problem)
        else:
            log.info("the registry answers again")

    async def _take_up_fusion(self, news: News[FusionDocument]) -> None:
        """Try and bind new profiles in a thread; where they are broken or do not fit, the old ones go on."""
        if news.problem is not None:
            self._refuse_fusion(news.problem + ("; the last good document is followed" if news.document else ""))
            if news.document is None and self.live is not None:
                return
        profiles = news.document or self._documents.started_with
        snapshot = self.snapshot
        try:
            work = partial(try_profiles, snapshot, profiles, self.observers.recent)
            fusions = await self.loader.background.run(work)
        except FusionError as error:
            self._refuse_fusion(str(error))
            return
        lives = {live.role: replace(live, fusion=fusions[live.role]) for live in snapshot.loaded()}
        self._assign(replace(snapshot.with_lives(lives), profiles=profiles))
        if news.problem is None:
            self.loader.metrics.document_errors.labels("fusion").set(0)
        log.info("fusion is at revision %d", profiles.revision if profiles else 0)
        for name in profiles.unused() if profiles else ():
            log.warning("fusion profile '%s' is used by no scene and no experiment", name)

    def _refuse_fusion(self, problem: str) -> None:
        self.loader.metrics.document_errors.labels("fusion").set(1)
        self.refusals.forget(FUSION_FILE)
        self._refuse(FUSION_FILE, "fusion_refused", problem)

    def _take_rollout(self, news: News[Rollout]) -> None:
        """Note the document that is to be followed; where it is broken and no last good one is there, the one before stays."""
        problem = news.problem
        if news.document is None and problem is None:
            problem = str(rollout_document.absent(self.loader.settings.registry))
        self.loader.metrics.document_errors.labels("rollout").set(int(problem is not None))
        if problem is not None:
            if news.document is not None:
                problem += f"; revision {news.document.revision}, the last good one, is followed"
            self._refuse(ROLLOUT_FILE, "rollout_unreadable", problem)
        self._pending = Pending(rollout=news.document, frees_memory=self._pending.frees_memory)

    def _is_due(self) -> bool:
        """Whether the document that is followed is to be tried again."""
        pending = self._pending
        if pending.rollout is None:
            return False
        if pending.waits_for_schema:
            return True
        unfinished = self.live is None or self.live.instead_of != ""
        return unfinished and monotonic() >= pending.retry_at

    async def _take_up(self) -> None:
        """Load what the followed document names and is not loaded yet."""
        pending = self._pending
        if pending.rollout is None:
            return
        pending.waits_for_schema = False
        pending.retry_at = monotonic() + pending.retry_seconds
        pending.retry_seconds = min(2 * pending.retry_seconds, _MOST_RETRY_SECONDS)
        snapshot, missing = rearranged(self.snapshot, pending.rollout)
        self._assign(snapshot)
        for role, target in missing.items():
            filled = await self._fill(role, target, pending.rollout)
            if role == Role.STABLE and not filled and (self.live is None or self.live.instead_of):
                return

    async def _fill(self, role: Role, target: Target, rollout: Rollout) -> bool:
        """Load a version for a role; False where it is refused. Canary and shadow may be one version."""
        live = next((x for x in self.snapshot.loaded() if x.bundle.label == str(target)), None)
        try:
            if live is None:
                live = await self.loader.load(target, role, rollout, self.snapshot, self.observers.recent)
        except BundleRejected as error:
            await self._refused(role, target, rollout, error.code, error.detail)
            return False
        except FusionError as error:
            await self._refused(role, target, rollout, "fusion_mismatch", str(error))
            return False
        self._assign(self.snapshot.with_lives({role: replace(live, role=role)}))
        self.refusals.forget(str(target))
        return True

    async def _refused(self, role: Role, target: Target, rollout: Rollout, code: str, detail: str) -> None:
        """Record a refusal. Where another version serves, this one is withdrawn; at the start an earlier one is looked for."""
        self._refuse(str(target), code, detail)
        serving = self.live
        if code in WAITING_CODES:
            self._pending.waits_for_schema = True
        if serving is None:
            await self._fall_back(target, rollout, code, detail)
        elif code not in WAITING_CODES and not (role == Role.STABLE and serving.instead_of):
            reason = f"{role} {target}: {code}: {detail}"
            self._pending.withdrawals.append(Withdrawal(role, rollout.revision, reason, serving.target))

    async def _fall_back(self, target: Target, rollout: Rollout, code: str, detail: str) -> None:
        """Serve with the newest stable version of the history that loads."""
        for earlier in rollout_document.earlier_stable(rollout):
            try:
                live = await self.loader.load(earlier, Role.STABLE, rollout, self.snapshot, self.observers.recent)
            except (BundleRejected, FusionError) as error:
                log.error("%s of the history cannot be loaded either: %s", earlier, error)
                continue
            instead_of = f"stable {target} cannot be loaded ({code}: {detail})"
            log.error("%s of the history serves, because %s", earlier, instead_of)
            self._assign(replace(self.snapshot, stable=replace(live, instead_of=instead_of)))
            return
        if code in WAITING_CODES:
            # Nothing else is there: it is loaded all the same, and ranks as soon as the store holds its schema.
            load = self.loader.load
            live = await load(target, Role.STABLE, rollout, self.snapshot, self.observers.recent, any_schema=True)
            self._assign(replace(self.snapshot, stable=live))

    async def _check_store(self) -> None:
        """State in the snapshot whether it can rank."""
        stable = self.live
        problem: NotServing | None = None
        if stable is None:
            last = self.refusals.last
            reason = f": {last.code}: {last.detail}" if last else " yet"
            problem = NotServing(f"no model is loaded{reason}")
        else:
            schema = await check_schema(self.reader, stable.bundle.layouts)
            if schema.problem is not None:
                problem = NotServing(f"{SCHEMA_NOT_LOADED}: {schema.problem}", SCHEMA_NOT_LOADED)
        self.snapshot = replace(self.snapshot, not_serving=problem)

    async def _judge_canary(self) -> None:
        canary = self.snapshot.canary
        stable = self.snapshot.stable
        if canary is None or stable is None:
            return
        verdict = self.observers.canary.verdict(self.snapshot.limits)
        if verdict is None:
            return
        label = canary.bundle.label
        self._refuse(label, "canary_broke_limits", verdict)
        self._assign(replace(self.snapshot, canary=None, percent=0.0))
        reason = f"canary {label}: {verdict}"
        self._pending.withdrawals.append(Withdrawal(Role.CANARY, canary.revision, reason, stable.target))

    async def _withdraw_pending(self) -> None:
        """Write withdrawals into the document; one that cannot be written now is tried again with the next step."""
        withdrawals = self._pending.withdrawals
        while withdrawals:
            withdrawal = withdrawals[0]
            work = partial(withdraw, self.loader.settings, self.started_with, withdrawal)
            try:
                await run_attempt(work, _WITHDRAWAL_SECONDS, "the registry")
            except OSError as error:
                log.warning("the rollout document was not changed, and will be: %s", error.strerror)
                return
            except Conflict as error:
                log.warning("the rollout document was not changed: %s (%s)", error, withdrawal.reason)
            else:
                self.loader.metrics.rollbacks.labels(withdrawal.role.value).inc()
                log.error("rolled back by itself: %s", withdrawal.reason)
            withdrawals.pop(0)

    def _refuse(self, target: str, code: str, detail: str) -> None:
        self.refusals.record(target, code, detail, self.live.bundle.label if self.live else "none")

    def _assign(self, after: ServingSnapshot) -> None:
        """Serve with another snapshot from now on."""
        before = self.snapshot
        if after.stable is not None and before.stable is None:
            after = replace(after, not_serving=None)
        self.snapshot = after
        self.observers.follow(after)
        record_change(before, after, self.loader.metrics)
        self.loader.keep_reports_of({live.bundle.label for live in after.loaded()})
        if {id(live.bundle) for live in before.loaded()} - {id(live.bundle) for live in after.loaded()}:
            self._pending.frees_memory = True
