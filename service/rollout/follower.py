"""Follows the rollout, fusion and rules documents, and swaps the versions that one worker serves with.

Threads read documents and load versions; then one assignment replaces `snapshot`. A request takes its snapshot once and
keeps it, so an old session is freed when its last request ends. A refused version is logged and counted, the version in
use stays, and the document is changed back for all workers.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from service.bundle.registry import Target
from service.bundle.verify import BundleRejected
from service.errors import DocumentError
from service.fusion import FusionProfiles
from service.fusion.document import FUSION_FILE
from service.metrics.metrics import Metrics
from service.rollout import rollout as rollout_document
from service.rollout.followed import FollowedRegistry, News, PendingWork
from service.rollout.loader import WAITING_CODES, VersionLoader
from service.rollout.observing.background import trim_memory
from service.rollout.observing.observers import Observers
from service.rollout.recent import RecentRequests
from service.rollout.records import RefusalLog, record_change, why_not_serving
from service.rollout.rollout import DEFAULT_LINE, ROLLOUT_FILE, Rollout
from service.rollout.serving import BoundDocuments, Live, Role, ServingSnapshot, rearranged
from service.rollout.trials.fusion_trial import with_profiles
from service.rollout.trials.rules_trial import with_rules
from service.rollout.withdrawal import Withdrawal, Withdrawals
from service.rules.definition.document import RULES_FILE
from service.settings import Settings
from service.store.base import FeatureStore

log = logging.getLogger("funnelrank.live")


class Follower:
    """Makes the serving snapshots of one worker, one after another."""

    def __init__(
        self, settings: Settings, profiles: FusionProfiles | None, reader: FeatureStore, metrics: Metrics
    ) -> None:
        self.snapshot = ServingSnapshot(documents=BoundDocuments(profiles))
        self.observers = Observers(metrics)
        self.refusals = RefusalLog(metrics)
        self.loader = VersionLoader(settings, reader, metrics)
        self.withdrawals = Withdrawals(settings, profiles, metrics)
        self._documents = FollowedRegistry(settings.registry, profiles, metrics)
        self._pending = PendingWork()

    @property
    def live(self) -> Live | None:
        return self.snapshot.stable

    @property
    def profiles(self) -> FusionProfiles | None:
        """The fusion profiles in use; None means the plain default."""
        return self.snapshot.documents.profiles

    @property
    def registry(self) -> Path:
        return self.loader.settings.registry

    @property
    def reader(self) -> FeatureStore:
        return self.loader.reader

    @property
    def started_with(self) -> FusionProfiles | None:
        """The profiles that hold if there is no fusion document."""
        return self._documents.started_with

    def current(self) -> Live:
        """The stable version. Raises NotReady."""
        return self.snapshot.current()

    async def follow(self) -> None:
        """Run `step` again and again, until cancelled."""
        while True:
            await asyncio.sleep(self.loader.settings.rollout_poll_ms / 1000)
            await self._guarded_step()

    async def _guarded_step(self) -> None:
        try:
            await self.step()
        except Exception:
            log.exception("following the documents failed; the next look is in a moment")

    async def step(self) -> None:
        """Take up changes of the documents, and check the store and the canary."""
        rollout, fusion, rules = await self._documents.look(self.live is not None)
        if fusion is not None:
            profiles = fusion.document or self.started_with
            await self._take_up_document(FUSION_FILE, fusion, partial(with_profiles, profiles))
        if rules is not None:
            await self._take_up_document(RULES_FILE, rules, partial(with_rules, rules.document))
        if self._pending.frees_memory:  # a step later no request holds the dropped versions any more
            self._pending.frees_memory = False
            await self.loader.background.run(trim_memory)
        if rollout is not None:
            self.refusals.forget()
            self._take_rollout(rollout)
            await self._take_up()
        elif self._pending.is_due(self.live):
            await self._take_up()
        problem = await why_not_serving(self.live, self.refusals.last, self.loader.reader)
        self.snapshot = replace(self.snapshot, not_serving=problem)
        self._judge_canary()
        await self.withdrawals.write()
        self.loader.metrics.records.set_status(self.described())

    def close(self) -> None:
        """End the threads of the observers."""
        self.observers.close()

    def described(self) -> dict[str, Any]:
        """What `GET /models` shows about this worker."""
        return {
            "pid": os.getpid(),
            **self.snapshot.described(),
            "refused": self.refusals.described(),
            "gate": {label: asdict(report) for label, report in self.loader.reports.items()},
        }

    async def _take_up_document(
        self, file: str, news: News[Any], make: Callable[[ServingSnapshot, RecentRequests], ServingSnapshot]
    ) -> None:
        """Try and bind new profiles or rules in a thread. If they are broken or do not fit, the old ones stay."""
        title = file.removesuffix(".json")
        if news.problem is not None:
            self._refuse_document(title, news.warning)
            if news.document is None and self.live is not None:
                return
        try:
            snapshot = await self.loader.background.run(partial(make, self.snapshot, self.observers.recent))
        except DocumentError as error:
            self._refuse_document(title, str(error))
            return
        self._assign(snapshot)
        if news.problem is None:
            self.loader.metrics.document_errors.labels(title).set(0)
        log.info("%s is at revision %d", title, snapshot.described()[f"{title}_revision"])

    def _refuse_document(self, title: str, problem: str) -> None:
        self.loader.metrics.document_errors.labels(title).set(1)
        self.refusals.forget(f"{title}.json")
        self._refuse(f"{title}.json", f"{title}_refused", problem)

    def _take_rollout(self, news: News[Rollout]) -> None:
        """Store the document to follow. If it is broken and no last good one exists, the previous document stays."""
        problem = news.problem
        if news.document is None and problem is None:
            problem = str(rollout_document.absent(self.loader.settings.registry))
        self.loader.metrics.document_errors.labels("rollout").set(int(problem is not None))
        if problem is not None:
            if news.document is not None:
                problem += f"; revision {news.document.revision}, the last good one, is followed"
            self._refuse(ROLLOUT_FILE, "rollout_unreadable", problem)
        self._pending = PendingWork(rollout=news.document, frees_memory=self._pending.frees_memory)
        self.withdrawals.clear()

    async def _take_up(self) -> None:
        """Load the versions that the followed document names and that are not loaded yet."""
        pending = self._pending
        if pending.rollout is None:
            return
        pending.begin()
        snapshot, missing = rearranged(self.snapshot, pending.rollout)
        self._assign(snapshot)
        for role, target in missing.items():
            filled = await self._fill(role, target, pending.rollout)
            if role == Role.STABLE and not filled and (self.live is None or self.live.instead_of):
                return
        pending.unfinished = False

    async def _fill(self, role: Role, target: Target, rollout: Rollout) -> bool:
        """Load a version for a role; return False if it is refused. Canary and shadow may be one version."""
        live = next((x for x in self.snapshot.loaded() if x.bundle.label == str(target)), None)
        try:
            if live is None:
                live = await self.loader.load(target, role, rollout, self.snapshot, self.observers.recent)
        except BundleRejected as error:
            await self._refused(role, target, rollout, error.code, error.detail)
            return False
        except DocumentError as error:
            await self._refused(role, target, rollout, error.code, str(error))
            return False
        self._assign(self.snapshot.with_lives({role: replace(live, role=role)}))
        self.refusals.forget(str(target))
        return True

    async def _refused(self, role: Role, target: Target, rollout: Rollout, code: str, detail: str) -> None:
        """Record a refusal. If another version serves, this one is withdrawn; at the start an earlier one is loaded."""
        self._refuse(str(target), code, detail)
        serving = self.live
        if code in WAITING_CODES:
            self._pending.waits_for_schema = True
        if serving is None:
            await self._fall_back(target, rollout, code, detail)
        elif code not in WAITING_CODES and not (role == Role.STABLE and serving.instead_of):
            reason = f"{role} {target}: {code}: {detail}"
            self.withdrawals.add(Withdrawal(DEFAULT_LINE, role, rollout.revision, reason, serving.target))

    async def _fall_back(self, target: Target, rollout: Rollout, code: str, detail: str) -> None:
        """Serve with the newest stable version of the history that can be loaded."""
        earlier = await self.loader.load_earlier(rollout, self.snapshot, self.observers.recent)
        if earlier is not None:
            instead_of = f"stable {target} cannot be loaded ({code}: {detail})"
            log.error("the earlier version %s serves, because %s", earlier.bundle.label, instead_of)
            self._assign(replace(self.snapshot, stable=replace(earlier, instead_of=instead_of)))
            return
        if code in WAITING_CODES:
            # There is no other version: load this one anyway; it ranks as soon as the store holds its schema.
            load = self.loader.load
            live = await load(target, Role.STABLE, rollout, self.snapshot, self.observers.recent, any_schema=True)
            self._assign(replace(self.snapshot, stable=live))

    def _judge_canary(self) -> None:
        canary = self.snapshot.canary
        stable = self.snapshot.stable
        if canary is None or stable is None:
            return
        verdict = self.observers.canary.verdict(self.snapshot.limits)
        if verdict is None:
            return
        label = canary.bundle.label
        self._refuse(label, "canary_broke_limits", verdict)
        self._assign(replace(self.snapshot, canary=None))
        reason = f"canary {label}: {verdict}"
        self.withdrawals.add(Withdrawal(DEFAULT_LINE, Role.CANARY, canary.revision, reason, stable.target))

    def _refuse(self, target: str, code: str, detail: str) -> None:
        self.refusals.record(target, code, detail, self.live.bundle.label if self.live else "none")

    def _assign(self, after: ServingSnapshot) -> None:
        """Replace the serving snapshot."""
        before = self.snapshot
        if after.stable is not None and before.stable is None:
            after = replace(after, not_serving=None)
        self.snapshot = after
        self.observers.follow(after)
        record_change(before, after, self.loader.metrics)
        self.loader.keep_reports_of({live.bundle.label for live in after.loaded()})
        if {id(live.bundle) for live in before.loaded()} - {id(live.bundle) for live in after.loaded()}:
            self._pending.frees_memory = True
