"""Owns training batches: a seeded permutation cut into steps, each gathered from the memory maps in a background thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from models.data.cache import Data, Part

Batch = dict[str, torch.Tensor]
PREFETCH = 4


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Batches per epoch; the last one may be smaller."""
    return -(-n // batch_size)


def shuffled_batches(data: Data, part: str, batch_size: int, seed: int, epoch: int, first_step: int = 0) -> Iterator[Batch]:
    """The batches of one epoch from step `first_step` on: a uniform shuffle that (seed, epoch) alone decides.

    Within a batch the impressions keep the file's order, which reads forward and changes no sum. Memory: 8 bytes per impression.
    """
    n = len(data.parts[part])
    order = np.random.default_rng([seed, epoch]).permutation(n)
    picks = (np.sort(order[s * batch_size : (s + 1) * batch_size]) for s in range(first_step, steps_per_epoch(n, batch_size)))
    return prefetched(partial(gather, data, data.parts[part], picked) for picked in picks)


def ordered_batches(data: Data, part: str, batch_size: int) -> Iterator[Batch]:
    """All batches of a part in the file's order, for evaluation."""
    n = len(data.parts[part])
    picks = (np.arange(begin, min(begin + batch_size, n)) for begin in range(0, n, batch_size))
    return prefetched(partial(gather, data, data.parts[part], picked) for picked in picks)


def gather(data: Data, part: Part, picked: np.ndarray) -> Batch:
    """The batch of the impressions `picked` int64 `[B]`: every group's rows, the behaviour sequences newest first, labels.

    L is the longest sequence of the batch and may be 0; shorter ones are padded with rows of 0.
    """
    user, item = part.user[picked], part.item[picked]
    arrays: dict[str, np.ndarray] = {
        "user_rows": data.user_rows[user].astype(np.int64),
        "user_numerics": data.user_numerics[user],
        "context_rows": part.context_rows[picked].astype(np.int64),
        "context_numerics": part.context_numerics[picked],
        "item_rows": data.item_rows[item].astype(np.int64),
        "item_numerics": data.item_numerics[item],
        "request_time": part.time[picked],
    }
    if data.behaviours is not None:
        arrays |= _sequences(data, part.start[picked], part.end[picked])
    if part.position is not None and part.position_cross is not None:
        arrays["position"] = part.position[picked].astype(np.int64)
        arrays["position_cross"] = part.position_cross[picked].astype(np.int64)
    labels = part.labels[picked]
    for i, column in enumerate(data.recipe.label_columns):
        arrays[f"label/{column}"] = np.ascontiguousarray(labels[:, i])
    return {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}


def _sequences(data: Data, start: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """`behaviour_rows` int64 `[B, L, K + 2]`, `behaviour_numerics` float32 `[B, L, N]` and `behaviour_times` int64 `[B, L]`."""
    events = data.behaviours
    assert events is not None
    longest = int((end - start).max(initial=0))
    place_BL = end[:, None] - 1 - np.arange(longest)
    padding_BL = place_BL < start[:, None]
    n_keys = events.item_rows.shape[1]
    rows = np.zeros((len(start), longest, n_keys + 2), dtype=np.int64)
    numerics = np.zeros((len(start), longest, events.item_numerics.shape[1]), dtype=np.float32)
    times = np.zeros((len(start), longest), dtype=np.int64)
    if longest:
        place_BL = np.where(padding_BL, end[:, None] - 1, place_BL)
        place_BL = np.where(end[:, None] > start[:, None], place_BL, 0)
        item_BL = events.item[place_BL]
        rows[..., :n_keys], rows[..., n_keys:] = events.item_rows[item_BL], events.properties[place_BL]
        numerics[...], times[...] = events.item_numerics[item_BL], events.time[place_BL]
        rows[padding_BL], numerics[padding_BL], times[padding_BL] = 0, 0, 0
    return {"behaviour_rows": rows, "behaviour_numerics": numerics, "behaviour_times": times}


def prefetched(work: Iterator[Callable[[], Batch]]) -> Iterator[Batch]:
    """The results of `work` in order, computed a few ahead by one thread, which ends with the iterator; its errors are raised here."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=PREFETCH)
    stopped = threading.Event()

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
