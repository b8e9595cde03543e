"""Swaps the versions that one worker serves with: loads what a rollout document names, line by line.

Threads load versions; then one assignment replaces `snapshot`. A request takes its snapshot once and keeps it, so an
old session is freed when its last request ends. A refused version is logged and counted, the version in use stays, and
the line is changed back for all workers.
"""

import logging
from dataclasses import replace
from functools import partial

from service.bundle.hashes import HashRecords
from service.bundle.registry import Target
from service.bundle.verify import BundleRejected
from service.errors import DocumentError
from service.fusion import FusionProfiles
from service.metrics.metrics import Metrics
from service.rollout.following.followed import PendingWork
from service.rollout.following.loader import WAITING_CODES, VersionLoader
from service.rollout.following.records import RefusalLog, record_change, why_not_serving
from service.rollout.following.withdrawal import Withdrawal, Withdrawals
from service.rollout.lines.rearranging import MissingVersion, rearranged
from service.rollout.lines.view import versions_of
from service.rollout.observing.background import trim_memory
from service.rollout.observing.observers import Observers
from service.rollout.rollout import Rollout
from service.rollout.serving import BoundDocuments, Live, Role, ServingLine, ServingSnapshot
from service.settings import Settings
from service.store.base import FeatureStore

log = logging.getLogger("funnelrank.live")
TOO_MANY_VERSIONS = "too_many_versions"


class LiveVersions:
    """Makes the serving snapshots of one worker, one after another."""

    def __init__(
        self,
        settings: Settings,
        profiles: FusionProfiles | None,
        reader: FeatureStore,
        metrics: Metrics,
        hashes: HashRecords,
    ) -> None:
        self.snapshot = ServingSnapshot(documents=BoundDocuments(profiles))
        self.observers = Observers(metrics)
        self.refusals = RefusalLog(metrics)
        self.loader = VersionLoader(settings, reader, metrics, hashes)
        self.withdrawals = Withdrawals(settings, profiles, metrics, hashes)
        self._pending = PendingWork()

    @property
    def stable(self) -> Live | None:
        """The stable version of the default line."""
        return self.snapshot.default.stable

    async def take(self, rollout: Rollout | None) -> None:
        """Follow another document from now on, and load what it names. None: there is nothing to follow."""
        self._pending = PendingWork(rollout=rollout, frees_memory=self._pending.frees_memory)
        self.withdrawals.clear()
        await self._take_up()

    async def go_on(self) -> None:
        """Load again what could not be loaded, if its time has come."""
        if self._pending.is_due(self.snapshot.lines.values()):
            await self._take_up()

    async def free_memory(self) -> None:
        """Return the memory of versions that were dropped a step ago: no request holds them any more."""
        if self._pending.frees_memory:
            self._pending.frees_memory = False
            await self.loader.background.run(trim_memory)

    async def check_store(self) -> None:
        """Ask the store whether it holds the rows that each line's stable version reads."""
        lines: dict[str, ServingLine] = {}
        for name, line in self.snapshot.lines.items():
            problem = await why_not_serving(line.stable, self.refusals.last, self.loader.reader)
            lines[name] = replace(line, not_serving=problem)
        self.snapshot = replace(self.snapshot, lines=lines)

    def judge_canaries(self) -> None:
        """Remove each canary that breaks a limit of its line."""
        for name, line in self.snapshot.lines.items():
            verdict = self.observers.verdict(line)
            if verdict is None or line.canary is None or line.stable is None:
                continue
            label = line.canary.bundle.label
            self.refuse(label, "canary_broke_limits", verdict)
            self.assign(self.snapshot.with_line(replace(line, canary=None)))
            reason = f"canary {label}: {verdict}"
            revision = line.canary.revision
            label = line.canary.line
            self.withdrawals.add(Withdrawal(name, Role.CANARY, revision, reason, line.stable.target, label))

    async def drop_changed(self) -> None:
        """Stop serving versions whose large tables were changed on the disk since they were verified."""
        hashes = self.loader.hashes
        for name in list(self.snapshot.lines):
            for live in list(self.snapshot.lines[name].loaded()):
                tables = live.bundle.tables
                if tables is None or not tables.touched:
                    continue
                try:
                    await self.loader.background.run(partial(tables.verify_again, hashes))
                except BundleRejected as error:
                    await self._drop(MissingVersion(name, live.role, live.target), error)

    async def _drop(self, version: MissingVersion, error: BundleRejected) -> None:
        """Remove a loaded version from its line; an earlier version takes the place of a stable one."""
        self.refuse(str(version.target), error.code, error.detail)
        line = self.snapshot.lines[version.line]
        live = line.in_role(version.role)
        self.assign(self.snapshot.with_line(line.with_lives({version.role: None})))
        rollout = self._pending.rollout
        if version.role == Role.STABLE and rollout is not None:
            await self._fall_back(version, rollout, error.code, error.detail)
        elif live is not None and line.stable is not None:
            reason = f"{version.role} {version.target}: {error.code}: {error.detail}"
            self.withdrawals.add(
                Withdrawal(version.line, version.role, live.revision, reason, line.stable.target, live.line)
            )

    def refuse(self, target: str, code: str, detail: str) -> None:
        """Record that a version or a document was refused."""
        self.refusals.record(target, code, detail, self.stable.bundle.label if self.stable else "none")

    def assign(self, after: ServingSnapshot) -> None:
        """Replace the serving snapshot."""
        before = self.snapshot
        # A line that has just got its first version ranks; the store is asked at the end of the step.
        for name, line in after.lines.items():
            old = before.lines.get(name)
            if line.stable is not None and (old is None or old.stable is None):
                after = after.with_line(replace(line, not_serving=None))
        self.snapshot = after
        self.observers.follow(after)
        record_change(before, after, self.loader.metrics)
        self.loader.keep_reports_of(after)
        if {id(live.bundle) for live in before.loaded()} - {id(live.bundle) for live in after.loaded()}:
            self._pending.frees_memory = True

    async def _take_up(self) -> None:
        """Load the versions that the followed document names and that their lines do not serve yet."""
        pending = self._pending
        if pending.rollout is None:
            return
        pending.begin()
        snapshot, missing = rearranged(self.snapshot, pending.rollout)
        self.assign(snapshot)
        incomplete: set[str] = set()
        for version in missing:
            # Without its stable version, a line's canary and shadow have nothing to be compared with.
            if version.line in incomplete:
                continue
            filled = await self._fill(version, pending.rollout)
            stable = self.snapshot.lines[version.line].stable
            if version.role == Role.STABLE and not filled and (stable is None or stable.instead_of):
                incomplete.add(version.line)
        pending.unfinished = bool(incomplete)

    async def _fill(self, version: MissingVersion, rollout: Rollout) -> bool:
        """Load a version for a role of a line; return False if it is refused. Lines and roles share what is loaded."""
        target = version.target
        line = self.snapshot.lines[version.line]
        try:
            live = line.usable(target, version.role)
            if live is None:
                self._check_count(target, rollout)
                live = await self.loader.load(target, version.role, line, rollout, self.snapshot, self.observers.recent)
        except BundleRejected as error:
            await self._refused(version, rollout, error.code, error.detail)
            return False
        except DocumentError as error:
            await self._refused(version, rollout, error.code, str(error))
            return False
        line = self.snapshot.lines[version.line]
        self.assign(self.snapshot.with_line(line.with_lives({version.role: replace(live, role=version.role)})))
        self.refusals.forget(str(target))
        return True

    def _check_count(self, target: Target, rollout: Rollout) -> None:
        """Raise BundleRejected for a version beyond the number that a worker loads, in the order of the document."""
        most = self.loader.settings.max_versions
        if str(target) not in list(versions_of(rollout))[:most]:
            detail = f"the document names more than {most} versions (FUNNELRANK_MAX_VERSIONS)"
            raise BundleRejected(TOO_MANY_VERSIONS, detail)

    async def _refused(self, version: MissingVersion, rollout: Rollout, code: str, detail: str) -> None:
        """Record a refusal. If another version serves, this one is withdrawn; at the start an earlier one is loaded."""
        target = version.target
        self.refuse(str(target), code, detail)
        serving = self.snapshot.lines[version.line].stable
        if code in WAITING_CODES:
            self._pending.waits_for_schema = True
        if code == TOO_MANY_VERSIONS:
            return
        if serving is None:
            await self._fall_back(version, rollout, code, detail)
        elif code not in WAITING_CODES and not (version.role == Role.STABLE and serving.instead_of):
            reason = f"{version.role} {target}: {code}: {detail}"
            withdrawal = Withdrawal(version.line, version.role, rollout.revision, reason, serving.target, serving.line)
            self.withdrawals.add(withdrawal)

    async def _fall_back(self, version: MissingVersion, rollout: Rollout, code: str, detail: str) -> None:
        """Serve a line with the newest stable version of its history that can be loaded."""
        line = self.snapshot.lines[version.line]
        recent = self.observers.recent
        earlier = await self.loader.load_earlier(line, rollout, self.snapshot, recent)
        if earlier is not None:
            instead_of = f"stable {version.target} cannot be loaded ({code}: {detail})"
            log.error("the earlier version %s serves, because %s", earlier.bundle.label, instead_of)
            self.assign(self.snapshot.with_line(replace(line, stable=replace(earlier, instead_of=instead_of))))
            return
        if code in WAITING_CODES:
            # There is no other version: load this one anyway; it ranks as soon as the store holds its schema.
            load = self.loader.load
            try:
                live = await load(version.target, Role.STABLE, line, rollout, self.snapshot, recent, any_schema=True)
            except (BundleRejected, DocumentError) as error:
                self.refuse(str(version.target), getattr(error, "code", code), str(error))
                return
            self.assign(self.snapshot.with_line(replace(line, stable=live)))
