"""Ranks the users of a partition in one process, by the ranker of the online service."""

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from batch.errors import BatchError
from batch.job import BatchJob, documents_of
from batch.partition import BatchCounts, RankedUser, table_of, write_partition
from batch.user_outputs import check_user_outputs, user_outputs, user_path, write_users
from batch.users import Partition
from service import log as service_log
from service.api.routes.rank import query_of
from service.api.routes.rank_bodies import RankRequest
from service.errors import ServiceError
from service.fusion import read_profiles
from service.metrics.metrics import Metrics
from service.ranking.deadline import Deadline
from service.ranking.degradation import Reason
from service.ranking.query import DocumentChoice, Ranking
from service.ranking.ranker import Ranker
from service.rollout.following.follower import Follower
from service.settings import Settings
from service.store.opening import open_store

log = logging.getLogger("funnelrank.batch")
# While one ranking waits for Redis, others compute.
_AT_ONCE = 4
_READS = 5
_FIRST_PAUSE_SECONDS = 0.5
# A batch waits longer for Redis than a visitor does.
_REDIS_MS = 10_000
_DEADLINE_MS = 600_000


@dataclass(frozen=True)
class ScorerStart:
    """What a scoring process gets at its start. `shared` are the candidates of all users, None if each has a list."""

    job: BatchJob
    settings: Settings
    shared: list[str] | None


class Scorer:
    """The live versions, loaded once in this process, and the connections to the store."""

    def __init__(self, start: ScorerStart) -> None:
        """Load what is live. Raises BatchError."""
        settings = start.settings
        service_log.configure("error")
        self._start = start
        self._runner = asyncio.Runner()
        self._reader = open_store(
            settings.redis_url.get_secret_value(),
            max(settings.redis_timeout_ms, _REDIS_MS),
            settings.item_cache_mb << 20,
            settings.item_cache_ttl_ms,
        )
        metrics = Metrics()
        profiles = read_profiles(settings.fusion_file) if settings.fusion_file else None
        self._follower = Follower(settings, profiles, self._reader, metrics)
        self._ranker = Ranker(self._follower, self._reader, metrics, settings.score_chunk)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def score(self, partition: Partition) -> BatchCounts:
        """Rank a partition's users and write its file. Raises BatchError, TableError and OSError."""
        started = time.process_time()
        ranked = self._runner.run(self._ranked(partition))
        table = self._table(ranked)
        counts = BatchCounts.of(ranked, time.process_time() - started)
        # The rankings last: a partition with rankings is complete.
        out = self._start.job.out
        if self._start.job.options.user_outputs:
            write_users(user_path(out, partition.number), ranked)
        write_partition(out, partition.number, table, counts)
        return counts

    def close(self) -> None:
        """Close the connections and the threads of this process."""
        self._follower.close()
        self._reader.close()
        self._runner.close()

    def _load(self) -> None:
        """Load the versions of the documents; raise BatchError unless all of them serve as the job recorded them."""
        self._check_documents()
        self._runner.run(self._follower.take_up())
        self._check_documents()
        # The service would go on with an earlier version. Half of a batch by another version is worse than none.
        refused = self._follower.refusals.last
        if refused is not None:
            raise BatchError(f"{refused.target} cannot be used: {refused.code}: {refused.detail}")
        for line in self._follower.snapshot.lines.values():
            if line.not_serving is not None:
                raise BatchError(line.not_serving.detail)
        bundles = (live.bundle for live in self._follower.snapshot.versions())
        check_user_outputs(self._start.job.options.user_outputs, bundles)

    def _check_documents(self) -> None:
        state = self._start.job.state
        changed = [name for name, digest in documents_of(self._start.settings).items() if digest != state[name]]
        if changed:
            raise BatchError(f"{', '.join(changed)} changed since the run was begun; begin anew in another folder")

    async def _ranked(self, partition: Partition) -> list[RankedUser]:
        """Rank the users of a partition, a few at a time, in the order of the table."""
        users = partition.users()
        shared = self._start.shared
        lists = itertools.repeat(shared) if shared is not None else partition.candidates()
        ranked: list[RankedUser | None] = [None] * len(users)
        # One iterator for all, so that each takes the next user that none has taken.
        entries = iter(enumerate(zip(users, lists, strict=False)))

        async def rank_next() -> None:
            for place, (user, candidates) in entries:
                ranked[place] = self._ranked_user(user, await self._rank(user, candidates))

        await asyncio.gather(*(rank_next() for _ in range(_AT_ONCE)))
        return [entry for entry in ranked if entry is not None]

    def _ranked_user(self, user: str, ranking: Ranking) -> RankedUser:
        """Keep what is written of a ranking, and compute the user's vectors. Raises BatchError if the model fails."""
        bundle = ranking.live.bundle
        try:
            outputs = user_outputs(bundle, ranking.computation.inputs, self._start.job.options.user_outputs)
        except Exception:
            log.exception("model %s failed", bundle.label)
            raise BatchError(f"user {user!r}: the model {bundle.label} failed") from None
        return RankedUser.of(user, ranking, outputs)

    async def _rank(self, user: str, candidates: list[str]) -> Ranking:
        """Rank one user's candidates. Raises BatchError if the store stays away or the model fails."""
        options = self._start.job.options
        body: dict[str, Any] = {"user_id": user, "candidates": candidates, "timestamp": options.timestamp}
        body |= {"context": options.context, "top_k": options.top_k, "scene": options.scene}
        pause = _FIRST_PAUSE_SECONDS
        try:
            # The checks of a request, so that a batch refuses what the service refuses.
            query, _ = query_of(RankRequest.model_validate(body), self._start.settings)
            if options.profile is not None or options.rules is not None:
                query.options.choice = DocumentChoice(options.profile, options.rules)
            for _ in range(_READS):
                ranking = await self._ranker.preview(query, Deadline(_DEADLINE_MS), None)
                reasons = {degradation.reason for degradation in ranking.degraded}
                if Reason.MODEL_FAILED in reasons:
                    raise BatchError(f"user {user!r}: the model {ranking.live.bundle.label} failed")
                if Reason.STORE_UNAVAILABLE not in reasons:
                    return ranking
                await asyncio.sleep(pause)
                pause *= 2
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise BatchError(f"user {user!r}: {where}: {first['msg']}") from None
        except ServiceError as error:
            raise BatchError(f"user {user!r}: {error}") from None
        raise BatchError("Redis does not answer; run the same command again to continue")

    def _table(self, ranked: list[RankedUser]) -> pa.Table:
        tasks = {task: None for live in self._follower.snapshot.versions() for task in live.bundle.tasks}
        return table_of(ranked, list(tasks))
