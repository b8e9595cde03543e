"""Tests that encoding gives the arrays that the first version gave, which read each table in memory, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_tables import VARIANTS, digests_of, random_tables, statistics_of
from small_tables import RECIPE, merged, write_tables

from models.data.cache import Data, open_data
from models.recipe import load_recipe, parse_recipe
from tables import reading

FIXTURE = Path(__file__).parents[2] / "fixtures" / "encoded.json"
SAMPLE = Path("sample/kuairand")
# 53 KiB: every step goes through the disk, in up to thirteen ranges.
LITTLE_GIB = 0.00005
_TOO_LARGE = (
    r"data\.memory_gib: a vocabulary of [0-9,]+ keys would take 0\.[0-9] MiB of memory, and the limit allows "
    r"0\.3 MiB for it; set data\.memory_gib higher, or model\.embedding\.min_count, which leaves rare keys out"
)


@pytest.fixture(scope="module")
def first_version() -> dict[str, Any]:
    return json.loads(FIXTURE.read_text())


def assert_as_first(data: Data, first: dict[str, Any]) -> None:
    digests = digests_of(data)
    assert {
        name for name in digests.keys() | first["arrays"].keys() if digests.get(name) != first["arrays"].get(name)
    } == set()
    assert {name: data.described[name] for name in first["described"]} == first["described"]
    statistics = statistics_of(data)
    assert statistics.keys() == first["statistics"].keys()
    for name, values in first["statistics"].items():
        np.testing.assert_allclose(statistics[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch_rows", [65536, 97])
@pytest.mark.parametrize("memory_gib", [4.0, LITTLE_GIB])
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_tables_are_encoded_as_in_memory(
    variant: str,
    memory_gib: float,
    batch_rows: int,
    first_version: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ties, gaps, repeats, unknown ids and rows out of order; ids get their rows in the order of the log's batches."""
    monkeypatch.setattr(reading, "BATCH_ROWS", batch_rows)
    folder = write_tables(tmp_path / "data", random_tables(list(VARIANTS).index(variant)))
    changes = VARIANTS[variant] | {"data.dir": str(folder), "data.memory_gib": memory_gib}
    data = open_data(parse_recipe(merged(RECIPE, changes), "the test"), tmp_path / "cache")
    assert_as_first(data, first_version[f"{variant}, {batch_rows} rows"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "memory_gib"),
    [("kuairand-mmoe", 4.0), ("kuairand-mmoe", 0.01), ("variants/kuairand-derived", 0.01), ("kuairand-counters", 4.0)],
)
def test_the_sample_is_encoded_as_in_memory(
    recipe: str, memory_gib: float, first_version: dict[str, Any], tmp_path: Path
) -> None:
    """Tens of seconds: the whole sample is encoded."""
    settings = (f"data.dir={SAMPLE}", f"data.memory_gib={memory_gib}")
    data = open_data(load_recipe(Path("models/recipes") / f"{recipe}.yaml", settings), tmp_path / "cache")
    assert_as_first(data, first_version[recipe.rpartition("/")[2]])


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        (
            {"data.memory_gib": 0.000001},
            900,
            r"data\.memory_gib: the index of [0-9]+ ids \(users\) would take 0\.0 MiB of",
        ),
        (
            {"data.memory_gib": 0.0005, "model.embedding.min_count": 1},
            20_000,
            _TOO_LARGE,
        ),
    ],
)
def test_what_exceeds_the_memory_says_what_to_set(
    changes: dict[str, Any], rows: int, message: str, tmp_path: Path, tiny_recipe: Callable[..., Any]
) -> None:
    tables = random_tables(1, impressions=rows)
    tables["impressions"]["tab"] = np.arange(len(tables["impressions"]))
    recipe = tiny_recipe(tables, changes)
    with pytest.raises(ValueError, match=message):
        open_data(recipe, tmp_path / "cache")


def test_rare_keys_need_no_memory(tmp_path: Path, tiny_recipe: Callable[..., Any]) -> None:
    tables = random_tables(1, impressions=20_000)
    tables["impressions"]["tab"] = np.arange(len(tables["impressions"]))
    changes = {"data.memory_gib": 0.0005, "model.embedding.min_count": 2}
    little = open_data(tiny_recipe(tables, changes), tmp_path / "cache")
    plenty = open_data(tiny_recipe(tables, {"model.embedding.min_count": 2}), tmp_path / "other")
    assert digests_of(little) == digests_of(plenty)
