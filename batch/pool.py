"""Scores partitions in several processes of this machine."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from batch.errors import BatchError
from batch.partition import BatchCounts
from batch.scorer import Scorer, ScorerStart
from batch.users import Partition
from features.parent_process import begin_in_pool

# Partitions that wait per process, so that no process waits for the table and memory stays bounded.
_WAITING = 2
_scorer: Scorer | None = None


def score_in_processes(start: ScorerStart, partitions: Iterator[Partition], processes: int) -> Iterator[BatchCounts]:
    """Score partitions over a pool of processes; yield the counts of each one that is written, as they come.

    Raises BatchError, TableError and OSError.
    """
    spawn = multiprocessing.get_context("spawn")
    arguments = (os.getpid(),)
    pool = ProcessPoolExecutor(processes, spawn, initializer=begin_in_pool, initargs=arguments)
    running: set[Future[BatchCounts]] = set()
    try:
        for partition in partitions:
            running.add(pool.submit(_score, start, partition))
            if len(running) >= processes * _WAITING:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise BatchError("a scoring process was killed; run the same command again to continue") from None
    finally:
        # Those that run are finished and written, those that wait are not begun.
        pool.shutdown(cancel_futures=True)


def _score(start: ScorerStart, partition: Partition) -> BatchCounts:
    """Score in a process of the pool, which loads what is live at its first partition."""
    global _scorer
    if _scorer is None:
        _scorer = Scorer(start)
    return _scorer.score(partition)
