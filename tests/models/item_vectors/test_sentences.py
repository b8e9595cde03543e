"""Tests the sentences of skip-gram: their order, what counts once, and what is cut."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.keys import key_of
from models.item_vectors import sentences as module
from models.item_vectors.sentences import Sentences, read_sentences
from models.recipe.sections.data import DataSection
from tables import open_table

SECOND_MS = 1000
START_MS = 1_651_334_400_000
DATA = DataSection(dir="", split={"by": "column", "column": "part"})


def sentences_of(folder: Path, rows: list[tuple[str, str, int]], before_s: int = 1000) -> Sentences:
    """Rows are user, item and second."""
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "second"])
    table["time_ms"] = START_MS + table.pop("second") * SECOND_MS
    table.to_parquet(folder / "behaviours.parquet", index=False)
    opened = open_table(folder / "behaviours.parquet", "behaviours")
    return read_sentences(opened, DATA, START_MS + before_s * SECOND_MS, folder, quiet=True)


def words(*items: str) -> list[str]:
    return [str(key_of("id", item)) for item in items]


def test_a_sentence_is_the_items_of_a_user_in_the_order_of_time(tmp_path: Path) -> None:
    rows = [("u", "c", 3), ("v", "a", 2), ("u", "a", 1), ("u", "b", 2), ("v", "c", 1), ("u", "late", 9)]
    made = sentences_of(tmp_path, rows, before_s=9)
    assert sorted(made) == sorted([words("a", "b", "c"), words("c", "a")])
    assert len(made) == 2 and made.later == 1 and made.longest == 3
    counted = dict(zip(made.vocabulary.tolist(), made.counts.tolist(), strict=True))
    assert counted == {int(word): count for word, count in zip(words("a", "b", "c"), (2, 1, 2), strict=True)}
    # They may be read again, and users follow each other by their keys, without a sign.
    assert list(made) == list(made)
    first = min("uv", key=lambda user: key_of("id", user) % 2**64)
    assert next(iter(made)) == (words("a", "b", "c") if first == "u" else words("c", "a"))


def test_what_is_repeated_counts_once(tmp_path: Path) -> None:
    # A click after its exposure; rows that stand in the table again; items of one moment keep their order.
    once = [("u", "a", 1), ("u", "b", 2), ("u", "c", 2), ("u", "d", 2)]
    rows = [once[0], ("u", "a", 1), *once[1:], ("u", "d", 3), ("u", "a", 4), *once]
    assert list(sentences_of(tmp_path, rows)) == [words("a", "b", "c", "d", "a")]


def test_neighbours_of_two_users_are_none(tmp_path: Path) -> None:
    made = sentences_of(tmp_path, [(f"u{i}", "a", i) for i in range(200)])
    assert sorted(made) == [words("a")] * 200 and made.longest == 1


def test_a_long_sequence_becomes_several_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 4)
    made = sentences_of(tmp_path, [("u", f"i{i}", i) for i in range(10)])
    assert [len(sentence) for sentence in made] == [4, 4, 2] and len(made) == 3
    assert [word for sentence in made for word in sentence] == words(*(f"i{i}" for i in range(10)))


def test_gensim_reads_a_sentence_of_that_length_whole() -> None:
    from gensim.models.word2vec import MAX_WORDS_IN_BATCH

    assert module.LONGEST == MAX_WORDS_IN_BATCH


def test_nothing_gives_no_sentence(tmp_path: Path) -> None:
    made = sentences_of(tmp_path, [("u", "a", 5)], before_s=5)
    assert list(made) == [] and len(made) == 0 and made.longest == 0 and made.later == 1
    assert np.array_equal(made.starts, [0])
