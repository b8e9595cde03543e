"""Follows the rollout, fusion and rules documents: what one worker serves with is what they say.

Threads read the documents; `LiveVersions` loads the versions that they name. A document that is broken or does not fit
is counted and logged, and the last good one stays in use.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from service.bundle.hashes import HashRecords
from service.errors import DocumentError
from service.fusion import FusionProfiles
from service.fusion.document import FUSION_FILE
from service.metrics.metrics import Metrics
from service.rollout import rollout as rollout_document
from service.rollout.following.followed import FollowedRegistry, News, RegistryNews
from service.rollout.following.live_versions import LiveVersions
from service.rollout.following.loader import VersionLoader
from service.rollout.following.records import RefusalLog
from service.rollout.recent import RecentRequests
from service.rollout.rollout import ROLLOUT_FILE, Rollout
from service.rollout.serving import Live, ServingSnapshot
from service.rollout.trials.fusion_trial import with_profiles
from service.rollout.trials.rules_trial import with_rules
from service.rules.definition.document import RULES_FILE
from service.settings import Settings
from service.store.base import FeatureStore

log = logging.getLogger("funnelrank.live")


class Follower:
    """Keeps one worker's versions, profiles and rules at what the documents say."""

    def __init__(
        self,
        settings: Settings,
        profiles: FusionProfiles | None,
        reader: FeatureStore,
        metrics: Metrics,
        hashes: HashRecords | None = None,
    ) -> None:
        self.versions = LiveVersions(settings, profiles, reader, metrics, hashes or HashRecords())
        self.observers = self.versions.observers
        self._documents = FollowedRegistry(settings.registry, profiles, metrics)

    @property
    def snapshot(self) -> ServingSnapshot:
        return self.versions.snapshot

    @property
    def refusals(self) -> RefusalLog:
        return self.versions.refusals

    @property
    def loader(self) -> VersionLoader:
        return self.versions.loader

    @property
    def live(self) -> Live | None:
        """The stable version of the default line."""
        return self.versions.stable

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

    @property
    def copy_problem(self) -> str | None:
        """Why the registry may be older than its object store, empty if it is not; None if it is in a folder."""
        return self._documents.copy_problem

    def current(self) -> Live:
        """The stable version of the default line. Raises NotReady."""
        return self.snapshot.default.current()

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
        """Take up changes of the documents, and check the store and the canaries."""
        versions = self.versions
        await versions.free_memory()
        await versions.drop_changed()
        await self.take_up()
        versions.judge_canaries()
        await versions.withdrawals.write()
        self.loader.metrics.records.set_status(self.described())

    async def take_up(self) -> None:
        """Take up changes of the documents, and check the store. Unlike `step`, it never writes to the registry."""
        versions = self.versions
        rollout, fusion, rules = await self._documents.look(self.live is not None)
        if fusion is not None:
            profiles = fusion.document or self.started_with
            if not await self._take_up_document(FUSION_FILE, fusion, partial(with_profiles, profiles)):
                self._documents.repeat(RegistryNews(fusion=fusion))
        if rules is not None:
            make = partial(with_rules, rules.document)
            if not await self._take_up_document(RULES_FILE, rules, make):
                self._documents.repeat(RegistryNews(rules=rules))
        if rollout is not None:
            self.refusals.forget()
            self._check_rollout(rollout)
            await versions.take(rollout.document)
        else:
            await versions.go_on()
        await versions.check_store()

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
    ) -> bool:
        """Try and bind new profiles or rules in a thread. If they are broken or do not fit, the old ones stay.

        Returns False if they may fit, but could not be tried; the old ones stay until the next step.
        """
        title = file.removesuffix(".json")
        if news.problem is not None:
            self._refuse_document(title, news.warning)
            if news.document is None and self.live is not None:
                return True
        try:
            snapshot = await self.loader.background.run(partial(make, self.snapshot, self.observers.recent))
        except DocumentError as error:
            self._refuse_document(title, str(error))
            return True
        except Exception as error:
            # Whatever it is, it must not keep the other documents from being taken up.
            self.loader.metrics.document_errors.labels(title).set(1)
            self.versions.refuse(file, f"{title}_not_tried", f"{type(error).__name__}: {error}")
            log.debug("%s could not be tried", file, exc_info=True)
            return False
        self.versions.assign(snapshot)
        if news.problem is None:
            self.loader.metrics.document_errors.labels(title).set(0)
        self.refusals.forget(file)
        log.info("%s is at revision %d", title, snapshot.described()[f"{title}_revision"])
        return True

    def _refuse_document(self, title: str, problem: str) -> None:
        self.loader.metrics.document_errors.labels(title).set(1)
        self.refusals.forget(f"{title}.json")
        self.versions.refuse(f"{title}.json", f"{title}_refused", problem)

    def _check_rollout(self, news: News[Rollout]) -> None:
        """Count and log a rollout document that is broken or absent."""
        problem = news.problem
        if news.document is None and problem is None:
            problem = str(rollout_document.absent(self.registry))
        self.loader.metrics.document_errors.labels("rollout").set(int(problem is not None))
        if problem is not None:
            if news.document is not None:
                problem += f"; revision {news.document.revision}, the last good one, is followed"
            self.versions.refuse(ROLLOUT_FILE, "rollout_unreadable", problem)
