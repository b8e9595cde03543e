"""Loads a version for a role: cheap checks first, then the bundle, then the gate."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TypeVar

from features.layouts import Layouts
from service.bundle.fetching import NOT_FETCHED
from service.bundle.hashes import HashRecords
from service.bundle.loading import Bundle, load_bundle
from service.bundle.manifest import Manifest
from service.bundle.registry import Target, folder_of
from service.bundle.verify import LOAD_TIMEOUT, BundleRejected, read_manifest
from service.errors import DocumentError
from service.metrics.metrics import Metrics
from service.rollout.lines.view import earlier_stable, restores
from service.rollout.observing.background import Background
from service.rollout.recent import Assembly, RecentRequests
from service.rollout.rollout import DEFAULT_LINE, Rollout
from service.rollout.serving import (
    SCHEMA_NOT_LOADED,
    Live,
    Role,
    ServingLine,
    ServingSnapshot,
    bind_profiles,
    bind_rule_sets,
)
from service.rollout.trials.brownout_loss import brownout_losses
from service.rollout.trials.gate import GateReport, gate, newest_per_user
from service.settings import Settings
from service.store.base import FeatureStore
from service.store.schemas import check_schema

log = logging.getLogger("funnelrank.live")
Result = TypeVar("Result")
SCHEMA_DIFFERS = "schema_differs"
SCHEMA_NOT_CHECKED = "schema_not_checked"
# A version that is refused for one of these reasons may fit later, so it is tried again and not withdrawn.
WAITING_CODES = frozenset({SCHEMA_NOT_LOADED, SCHEMA_NOT_CHECKED, NOT_FETCHED})
# Versions that score inputs which were assembled for the stable version.
_NAMES = {Role.SHADOW: "shadow", Role.FIRST_PASS: "first pass"}
# The grace beyond a load's own limit before its thread is abandoned: a hanging file read cannot be interrupted.
_GRACE_SECONDS = 2.0


class VersionLoader:
    """Loads versions of one registry, one at a time.

    `reports` holds the gate's report of each version; see `report_name`.
    """

    def __init__(self, settings: Settings, reader: FeatureStore, metrics: Metrics, hashes: HashRecords) -> None:
        self.settings = settings
        self.reader = reader
        self.metrics = metrics
        self.hashes = hashes
        self.background = Background()
        self.reports: dict[str, GateReport] = {}

    async def load(
        self,
        target: Target,
        role: Role,
        line: ServingLine,
        rollout: Rollout,
        snapshot: ServingSnapshot,
        recent: RecentRequests,
        *,
        any_schema: bool = False,
    ) -> Live:
        """Load a version that may take requests of a line. Raises BundleRejected and DocumentError.

        A version that another line has loaded is not loaded again; it passes the gate of this line. `any_schema` skips
        the check that the store holds rows of the version's feature schema.
        """
        seconds = self.settings.load_timeout_ms / 1000
        started = perf_counter()
        shared = next((live.bundle for live in snapshot.loaded() if live.bundle.label == str(target)), None)
        if shared is None:
            bundle = await self._load(target, role, line, snapshot, seconds, any_schema=any_schema)
        else:
            bundle = shared
            if not any_schema:
                await self._check_schema(bundle.manifest, role, target, line.stable)
        fusion = bind_profiles(bundle.manifest, snapshot.documents.profiles)
        rules = bind_rule_sets(bundle.manifest, snapshot.documents.rule_sets)
        label = line.name if rollout.lines else ""
        live = Live(bundle, fusion, role, rollout.revision, rules=rules, line=label)
        if line.stable is not None and restores(rollout, line.name) is None:
            self.reports[report_name(line.name, bundle.label)] = await self._gate(live, line, recent, seconds)
        if shared is None:
            self.metrics.load_seconds.observe(perf_counter() - started)
            self.metrics.swaps.labels("taken").inc()
        return live

    async def _load(
        self,
        target: Target,
        role: Role,
        line: ServingLine,
        snapshot: ServingSnapshot,
        seconds: float,
        *,
        any_schema: bool,
    ) -> Bundle:
        settings = self.settings
        folder = folder_of(settings.registry, target)

        # Cheap checks first, so that a refused version costs little.
        manifest = await self._run(partial(read_manifest, folder, settings.trusted_keys), seconds)
        bind_profiles(manifest, snapshot.documents.profiles)
        bind_rule_sets(manifest, snapshot.documents.rule_sets)
        if not any_schema:
            await self._check_schema(manifest, role, target, line.stable)

        # Use one manifest from here on, even if somebody changes the folder meanwhile.
        largest = min(settings.score_chunk, settings.max_candidates)
        threads = settings.model_threads
        load = partial(load_bundle, folder, threads, largest, manifest=manifest, seconds=seconds, hashes=self.hashes)
        return await self._run(load, seconds)

    async def load_earlier(
        self, line: ServingLine, rollout: Rollout, snapshot: ServingSnapshot, recent: RecentRequests
    ) -> Live | None:
        """Load a line's newest stable version of the history that can be loaded; return None if there is none."""
        for target in earlier_stable(rollout, line.name):
            try:
                return await self.load(target, Role.STABLE, line, rollout, snapshot, recent)
            except (BundleRejected, DocumentError) as error:
                log.error("the earlier version %s cannot be loaded either: %s", target, error)
        return None

    def keep_reports_of(self, snapshot: ServingSnapshot) -> None:
        """Drop the reports of versions that their line no longer uses."""
        used = {report_name(line.name, live.bundle.label) for line in snapshot.lines.values() for live in line.loaded()}
        self.reports = {name: report for name, report in self.reports.items() if name in used}

    async def _check_schema(self, manifest: Manifest, role: Role, target: Target, stable: Live | None) -> None:
        """Raise BundleRejected if the store holds no rows of the schema.

        If another version serves, BundleRejected is also raised if the store does not answer.
        """
        serving = stable.bundle.layouts.fingerprint if stable is not None else None
        layouts = Layouts.of(manifest.feature_schema)
        differs = stable is not None and layouts.inputs_fingerprint != stable.bundle.layouts.inputs_fingerprint
        if role in _NAMES and differs:
            detail = f"a {_NAMES[role]} scores the stable version's inputs, and {target} has another feature schema"
            raise BundleRejected(SCHEMA_DIFFERS, detail)
        schema = await check_schema(self.reader, layouts)
        if schema.problem is not None:
            raise BundleRejected(SCHEMA_NOT_LOADED, schema.problem)
        if not schema.reachable and serving is not None and manifest.fingerprint != serving:
            detail = (
                f"Redis does not answer, so it is unknown whether it holds rows of the schema {manifest.fingerprint}"
            )
            raise BundleRejected(SCHEMA_NOT_CHECKED, f"{detail}; {target} is tried again")

    async def _gate(
        self,
        new: Live,
        line: ServingLine,
        recent: RecentRequests,
        seconds: float,
    ) -> GateReport:
        """Compare a version with the stable one, and measure a brown-out of the pair that ranks with it."""
        stable = line.stable
        assert stable is not None
        first = line.first_pass
        # The live version cannot score the inputs of another schema.
        alike = new.bundle.layouts.inputs_fingerprint == stable.bundle.layouts.inputs_fingerprint
        requests = recent.of(new.bundle.layouts.inputs_fingerprint, line.name) if alike else []
        if new.role == Role.FIRST_PASS:
            # Its scores only choose candidates, so they may differ from the stable version's.
            return await self._run(partial(_of_pair, GateReport(stable.bundle.label), stable, new, requests), seconds)
        report = await self._run(partial(gate, new.bundle, stable.bundle, requests, line.limits), seconds)
        if first is None or not requests or new.role == Role.SHADOW:
            return report
        return await self._run(partial(_of_pair, report, new, first, requests), seconds)

    async def _run(self, work: Callable[[], Result], seconds: float) -> Result:
        try:
            return await self.background.run(work, seconds + _GRACE_SECONDS)
        except TimeoutError as error:
            detail = f"it was not loaded within {seconds:g} s (FUNNELRANK_LOAD_TIMEOUT_MS): {error.strerror}"
            raise BundleRejected(LOAD_TIMEOUT, detail) from None


def report_name(line: str, label: str) -> str:
    """The name of a version's gate report: `model/1` on the default line, `item_page model/1` on another one."""
    return label if line == DEFAULT_LINE else f"{line} {label}"


def _of_pair(report: GateReport, live: Live, first: Live, requests: Sequence[Assembly]) -> GateReport:
    """Add the losses of a brown-out by a version and its first pass; none if one of them fails."""
    try:
        losses = brownout_losses(live, first, newest_per_user(requests))
    except Exception:
        # A ranking falls back on the version that works, so the failure of one must not keep the other away.
        log.exception("the loss of a brown-out by %s and %s was not measured", first.bundle.label, live.bundle.label)
        return report
    return replace(report, brownout=losses)
