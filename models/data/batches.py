"""Makes training batches: a seeded permutation cut into steps, each gathered from the memory maps.

A recipe with list losses gets batches that keep lists whole: the lists are permuted instead of the impressions.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from features.layouts import COUNTER_INPUT
from features.within_request import INPUT as COMPARED
from models.data.cache import Behaviours, Data, Part, lists_of
from models.data.shards import Shard

Batch = dict[str, torch.Tensor]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the number of batches per epoch; the last batch may be smaller."""
    return -(-n // batch_size)


def shuffled_batches(
    data: Data,
    part: str,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    ahead: int = 0,
    shard: Shard | None = None,
) -> Iterator[Batch]:
    """Yield the batches of one epoch from step `first_step` on, in a uniform order that depends on (seed, epoch) only.

    `ahead`: how many batches a background thread prepares. 0 gathers in the loop, which is fastest while the files fit
    into memory: a batch takes a millisecond, less than the overhead of a thread. Within a batch the impressions keep
    the file's order, so that the file is read forward; the sums do not change. Memory: 8 bytes per impression.
    `shard`: yield only the impressions of each batch that lie in it, in some batches perhaps none. Of the training part
    only the impressions that are trained on are in a batch (models/data/sampling.py).
    """
    trained = data.trained_rows if part == "train" else None
    n = len(data.parts[part]) if trained is None else len(trained)
    rng = np.random.default_rng([seed, epoch])
    lists = lists_of(data.parts[part]) if data.recipe.training.list_losses else None
    picks: Iterator[np.ndarray]
    if lists is not None:
        of_trained = lists if trained is None else lists.take(trained)
        picks = iter(steps_of_lists(of_trained, batch_size, rng)[first_step:])
    else:
        order = rng.permutation(n)
        steps = range(first_step, steps_per_epoch(n, batch_size))
        picks = (np.sort(order[s * batch_size : (s + 1) * batch_size]) for s in steps)
    if trained is not None:
        picks = (trained[picked] for picked in picks)
    if shard is not None:
        picks = _in_shard(picks, shard, lists)
    work = (partial(gather, data, data.parts[part], picked) for picked in picks)
    return prefetched(work, ahead) if ahead else (job() for job in work)


def _in_shard(picks: Iterator[np.ndarray], shard: Shard, lists: np.ndarray | None) -> Iterator[np.ndarray]:
    for picked in picks:
        yield shard.own(picked, None if lists is None else lists.take(picked))


def steps_of_lists(lists: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Yield the impressions of each step, in the file's order: whole lists of `lists` int64 `[n]` in random order.

    There are as many steps as without lists, each with `batch_size` impressions on average and less than twice that
    many. A list longer than a batch is cut into random pieces. Memory: 40 bytes per impression.
    """
    n = len(lists)
    steps = steps_per_epoch(n, batch_size)
    if not n:
        return []
    # Impressions in random order, then sorted by list: each list is contiguous, and cut into pieces that fit any step.
    shuffled = rng.permutation(n)
    shuffled = shuffled[np.argsort(lists[shuffled], kind="stable")]
    new_list = np.r_[True, np.diff(lists[shuffled]) != 0]
    first = np.flatnonzero(new_list)
    place = np.arange(n) - first[np.cumsum(new_list) - 1]
    piece_first = np.flatnonzero(place % (n // steps) == 0)
    size = np.diff(np.r_[piece_first, n])
    # Pieces in random order. A piece belongs to the step in which its first impression lies.
    order = rng.permutation(len(size))
    start = np.cumsum(size[order]) - size[order]
    step_of_piece = np.empty(len(size), dtype=np.int64)
    step_of_piece[order] = start * steps // n
    step = np.repeat(step_of_piece, size)
    by_step = shuffled[np.lexsort((shuffled, step))]
    return np.split(by_step, np.cumsum(np.bincount(step, minlength=steps))[:-1])


def ordered_batches(data: Data, part: str, batch_size: int) -> Iterator[Batch]:
    """Yield all batches of a part in the file's order, for evaluation."""
    n = len(data.parts[part])
    picks = (np.arange(begin, min(begin + batch_size, n)) for begin in range(0, n, batch_size))
    return (gather(data, data.parts[part], picked) for picked in picks)


def gather(data: Data, part: Part, picked: np.ndarray) -> Batch:
    """Gather the batch of the impressions `picked` int64 `[B]`: rows of every group, behaviours newest first, labels.

    L is the longest sequence of the batch and may be 0; shorter sequences are padded with rows of 0.
    """
    # `take` on memory maps reads only the chosen rows.
    user = part.user.take(picked)
    item = part.item.take(picked)
    arrays: dict[str, np.ndarray] = {
        "user_rows": data.user_rows.take(user, axis=0).astype(np.int64),
        "user_numerics": data.user_numerics.take(user, axis=0),
        "context_rows": part.context_rows.take(picked, axis=0).astype(np.int64),
        "context_numerics": part.context_numerics.take(picked, axis=0),
        "item_rows": data.item_rows.take(item, axis=0).astype(np.int64),
        "item_numerics": data.item_numerics.take(item, axis=0),
        "request_time": part.time.take(picked),
    }
    # Optional inputs: each exists only if the schema or the recipe asks for it.
    if data.behaviours is not None:
        arrays |= _sequences(data.behaviours, part.start.take(picked), part.end.take(picked))
    if data.encoding.schema.candidate:
        arrays["candidate_rows"] = part.candidate_rows.take(picked, axis=0).astype(np.int64)
        arrays["candidate_numerics"] = part.candidate_numerics.take(picked, axis=0)
    if data.encoding.schema.derived:
        arrays["derived_rows"] = part.derived_rows.take(picked, axis=0).astype(np.int64)
        arrays["derived_numerics"] = part.derived_numerics.take(picked, axis=0)
    if part.within is not None:
        arrays[COMPARED] = part.within.take(picked, axis=0)
    if part.counters is not None:
        arrays[COUNTER_INPUT] = part.counters.take(picked, axis=0)
    if part.position is not None and part.position_cross is not None:
        arrays["position"] = part.position.take(picked).astype(np.int64)
        arrays["position_cross"] = part.position_cross.take(picked).astype(np.int64)
    if data.recipe.training.list_losses:
        arrays["group"] = lists_of(part).take(picked).astype(np.int64)
    if part.weights is not None:
        weights = part.weights.take(picked, axis=0)
        for i, column in enumerate(data.recipe.data.weight_columns):
            arrays[f"weight/{column}"] = np.ascontiguousarray(weights[:, i])
    labels = part.labels.take(picked, axis=0)
    for i, column in enumerate(data.recipe.label_columns):
        arrays[f"label/{column}"] = np.ascontiguousarray(labels[:, i])
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _sequences(events: Behaviours, start: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """Rows int64 `[B, L, K + 2]`, numerics float32 `[B, L, N]` and times int64 `[B, L]` of the behaviours."""
    longest = int((end - start).max(initial=0))
    place_BL = end[:, None] - np.arange(longest)  # one further than the event, since event 0 of the arrays is padding
    place_BL = np.where(place_BL > start[:, None], place_BL, 0)
    rows = events.rows.take(place_BL, axis=0).astype(np.int64)
    return {
        "behaviour_rows": rows,
        "behaviour_numerics": events.numerics.take(place_BL, axis=0),
        "behaviour_times": events.time.take(place_BL),
    }


def prefetched(work: Iterator[Callable[[], Batch]], ahead: int) -> Iterator[Batch]:
    """Yield the results of `work` in order; one thread computes up to `ahead` of them in advance.

    The thread ends with the iterator; its errors are raised here.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    # Short waits, so that the thread notices when nobody reads any more.
    def put(result: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for job in work:
                if not put(job()):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            put(error)

    thread = threading.Thread(target=run, name="batches", daemon=True)
    thread.start()
    try:
        while (result := ready.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopped.set()
        thread.join()
