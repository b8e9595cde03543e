"""Learns a vector per item by skip-gram with negative sampling, with gensim.

Mikolov et al., Distributed Representations of Words and Phrases and their Compositionality, NIPS 2013 (arXiv
1310.4546), section 2.2: for an item w and each item c within the window around it,
  log sigmoid(v'_c . v_w) + sum over k items n drawn by frequency^0.75 of log sigmoid(-v'_n . v_w)
is raised, with k = 5. Items of more than 1/1000 of all behaviours are left out at random (section 2.3). v_w is the
vector of w.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from gensim.models import Word2Vec
from gensim.models.callbacks import CallbackAny2Vec
from tqdm import tqdm

from models.item_vectors.errors import VectorsError
from models.item_vectors.progress import progress_bar
from models.item_vectors.sentences import Sentences

_NEGATIVE = 5


@dataclass(frozen=True)
class SkipGram:
    """The settings: numbers per vector, items on each side that are neighbours, behaviours that an item must have."""

    width: int
    window: int
    min_count: int
    epochs: int
    seed: int


@dataclass(frozen=True)
class ItemVectors:
    """`keys` of items int64 `[n]`, ascending, and their `vectors` float32 `[n, width]`."""

    keys: np.ndarray
    vectors: np.ndarray

    def places(self, keys: np.ndarray) -> np.ndarray:
        """The row of each item's vector, -1 for an item without one, int64 `[m]`."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)


def learn_vectors(sentences: Sentences, settings: SkipGram, quiet: bool = False) -> ItemVectors:
    """Train on the sentences. The same sentences, settings and machine give the same bits. Raises VectorsError.

    In memory: 12 bytes per number of all vectors, and 250 per item.
    """
    most = int(sentences.counts.max(initial=0))
    if most < settings.min_count:
        problem = f"no item has so many behaviours before the end of the training part; the most frequent has {most:,}"
        raise VectorsError(f"--min-count {settings.min_count}: {problem}")
    if sentences.longest < 2:
        raise VectorsError("no user has behaviours of two items, so no item has a neighbour to learn from")
    # gensim warns of few sentences, which would not keep several workers busy.
    logging.getLogger("gensim").setLevel(logging.ERROR)
    # One worker, because several update the vectors in a random order.
    model = Word2Vec(
        vector_size=settings.width,
        window=settings.window,
        min_count=settings.min_count,
        sg=1,
        hs=0,
        negative=_NEGATIVE,
        sorted_vocab=0,
        seed=settings.seed,
        workers=1,
    )
    # Equally frequent items are sorted by their keys.
    order = np.lexsort((sentences.vocabulary, -sentences.counts))
    names = map(str, sentences.vocabulary[order].tolist())
    frequencies = dict(zip(names, sentences.counts[order].tolist(), strict=True))
    model.build_vocab_from_freq(frequencies, corpus_count=len(sentences))
    with progress_bar("skip-gram", settings.epochs, "epochs", quiet) as bar:
        model.train(sentences, total_examples=model.corpus_count, epochs=settings.epochs, callbacks=[_EpochsShown(bar)])
    keys = np.array([int(name) for name in model.wv.index_to_key], dtype=np.int64)
    ascending = np.argsort(keys)
    return ItemVectors(keys[ascending], np.asarray(model.wv.vectors, dtype=np.float32)[ascending])


class _EpochsShown(CallbackAny2Vec):  # type: ignore[misc]  # gensim has no types
    """Moves a bar by one per epoch. gensim calls it in the thread that waits for the others."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar

    def on_epoch_end(self, model: Word2Vec) -> None:
        self._bar.update()
