"""Tests that memory is bounded: beyond `data.memory_gib`, impressions cost a small index each, not their rows."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]
USERS = 20_000
ITEMS = 2_000
DAY_MS = 86_400_000
START_MS = 1_651_248_000_000
MEMORY_GIB = 1 / 16
# A training row of this recipe (keys as 8 bytes, numerics as 4, five behaviours) takes over 300 bytes. Here every
# impression is a behaviour too. What is sorted at once is within MEMORY_GIB.
MOST_BYTES_PER_IMPRESSION = 96

MEASURE = """
import sys, threading, time
from pathlib import Path
from models.data.batches import shuffled_batches
from models.data.cache import open_data
from models.recipe import load_recipe

peak, done = 0, False
def watch():
    global peak
    while not done:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = max(peak, next(int(l.split()[1]) for l in lines if l.startswith("RssAnon")))
        time.sleep(0.01)
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
data = open_data(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
rows = sum(len(batch["request_time"]) for batch in shuffled_batches(data, "train", 4096, 1, 0))
done = True
watcher.join()
print(rows, peak * 1024)
"""


def write_tables(folder: Path, impressions: int) -> None:
    rng = np.random.default_rng(1)
    folder.mkdir()
    user = rng.integers(0, USERS, impressions)
    item = rng.integers(0, ITEMS, impressions)
    time_ms = START_MS + rng.integers(0, 9 * DAY_MS, impressions)
    tab = rng.integers(0, 3, impressions)
    click = rng.integers(0, 2, impressions)
    like = click * rng.integers(0, 2, impressions)
    columns = {"user_id": user, "item_id": item, "time_ms": time_ms, "tab": tab, "battery": rng.random(impressions)}
    tables = {
        "impressions": columns | {"click": click, "long_view": click, "like": like},
        "behaviours": {"user_id": user, "item_id": item, "time_ms": time_ms, "action": click.astype(str), "scene": tab},
        "users": {"user_id": np.arange(USERS), "city": rng.integers(0, 9, USERS), "fans": rng.random(USERS)},
        "items": {
            "item_id": np.arange(ITEMS),
            "tags": [[int(t)] for t in rng.integers(0, 9, ITEMS)],
            "length": rng.random(ITEMS),
        },
    }
    for name, table in tables.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet", row_group_size=50_000)


def peak_bytes(tmp_path: Path, recipe: str, impressions: int) -> tuple[int, int]:
    folder = tmp_path / str(impressions)
    write_tables(folder, impressions)
    path = tmp_path / f"{impressions}.yaml"
    path.write_text(recipe.replace("dir: ''", f"dir: {folder}\n  memory_gib: {MEMORY_GIB}"))
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"cache-{impressions}")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, peak = done.stdout.split()
    return int(rows), int(peak)


@pytest.mark.slow
def test_ten_times_the_impressions_cost_an_index_in_memory_not_their_rows(
    tmp_path: Path, tiny_recipe_text: str
) -> None:
    few_rows, few = peak_bytes(tmp_path, tiny_recipe_text, 100_000)
    many_rows, many = peak_bytes(tmp_path, tiny_recipe_text, 1_000_000)
    assert many_rows > 9 * few_rows
    assert (many - few) / 900_000 < MOST_BYTES_PER_IMPRESSION
