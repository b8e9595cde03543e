"""Tests that days which are replayed through a live service train as their own tables do, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from logged_tables import ACTIONS, LOG_SECTION, raw
from running_service import Server, serving, wait_until
from small_tables import RECIPE, make_tables, merged, write_tables

from export.bundle import export_run
from funnelrank.main import main
from loop.join.join import join
from loop.log.compact import compact
from loop.proof.verify import verify
from models.data.batches import ordered_batches
from models.data.cache import open_data
from models.recipe import parse_recipe
from models.train import train
from service.sample.embedded_redis import EmbeddedRedis

SHOWN = 120
NEW_ITEM = 5  # loaded in the middle of the days, and shown from then on
MOVED_ITEM = 22  # loaded with another length in the middle of the days


def replayed_tables() -> dict[str, pd.DataFrame]:
    """The small tables of a few impressions, without the new item before it exists."""
    tables = make_tables()
    impressions = tables["impressions"].head(SHOWN).sort_values("time_ms").drop_duplicates("time_ms")
    impressions = impressions.reset_index(drop=True)
    early = (impressions.index < len(impressions) // 2) & (impressions["item_id"] == NEW_ITEM)
    tables["impressions"] = impressions[~early].reset_index(drop=True)
    return tables


def events_of(n: int, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of an impression, one second apart."""
    about = {"user_id": str(row["user_id"]), "item_id": str(row["item_id"]), "scene": raw(row["tab"])}
    actions = [action for label, action in ACTIONS.items() if row[label]]
    return [
        about | {"action": action, "timestamp": row["time_ms"] + 1000 * (k + 1), "event_id": f"e-{n}-{k}"}
        for k, action in enumerate(actions)
    ]


def replayed(server: Server, tables: dict[str, pd.DataFrame], load_rest: Any) -> list[dict[str, Any]]:
    """Rank, show and act as the impressions say; one event is sent twice, and one arrives after everything else."""
    rows = tables["impressions"].to_dict("records")
    last = {row["user_id"]: n for n, row in enumerate(rows)}
    late_of = max(n for n in last.values() if rows[n]["click"])
    items = [item for item in tables["items"]["item_id"].tolist() if item != NEW_ITEM]
    seen: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []
    late: list[dict[str, Any]] = []
    for n, row in enumerate(rows):
        if n == len(rows) // 2:
            load_rest()
        candidates = [str(row["item_id"]), *(str(item) for item in (items[n % 7], items[n % 5 + 9]))]
        request = {
            "user_id": str(row["user_id"]),
            "candidates": list(dict.fromkeys(candidates)),
            "request_id": f"r-{n}",
        }
        context = {"tab": raw(row["tab"]), "battery": raw(row["battery"])}
        done = server.http.post("/rank", json=request | {"context": context, "timestamp": row["time_ms"]})
        assert done.status_code == 200 and done.json()["degraded"] == [], done.text
        (rank,) = (e["rank"] for e in done.json()["ranking"] if e["item_id"] == str(row["item_id"]))
        shown = [{"item_id": str(row["item_id"]), "position": rank}]
        seen.append({"request_id": f"r-{n}", "timestamp": row["time_ms"] + 500, "items": shown})
        events = [event | {"request_id": f"r-{n}", "position": rank} for event in events_of(n, row)]
        if n == late_of:
            late = [events.pop()]
        if events:
            assert server.http.post("/events", json={"events": events}).status_code == 200
        sent += events
    # The doubled one and the late one.
    assert server.http.post("/events", json={"events": sent[:1]}).json()["new"] == 0
    assert server.http.post("/events", json={"events": late}).json()["new"] == 1
    assert server.http.post("/impressions", json={"impressions": seen}).status_code == 200
    return sent + late


@pytest.mark.slow
def test_replayed_days_train_as_their_own_tables_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = replayed_tables()
    first = tables | {"items": tables["items"][tables["items"]["item_id"] != NEW_ITEM].copy()}
    first["items"].loc[first["items"]["item_id"] == MOVED_ITEM, "length"] = 999.0
    registry = tmp_path / "registry"
    base = write_tables(tmp_path / "base", make_tables())
    trained = parse_recipe(merged(RECIPE, {"data.dir": str(base), "training.epochs": 1}), "the test")
    train(trained, tmp_path / "run", cache=tmp_path / "cache", reading_steps=0, quiet=True)
    export_run(tmp_path / "run", registry, version=None)
    assert main(["rollout", "tiny", "1", "--registry", str(registry)]) == 0
    for name, of_day in (("morning", first), ("evening", tables)):
        write_tables(tmp_path / name, {role: of_day[role] for role in ("users", "items")})
    log = tmp_path / "log"
    with EmbeddedRedis() as redis:
        monkeypatch.setenv("FUNNELRANK_REDIS_URL", redis.url)

        def load(name: str) -> None:
            assert main(["load", str(tmp_path / name), "--registry", str(registry)]) == 0

        load("morning")
        with serving(tmp_path, registry, redis.url, exposure_log=log, item_cache_mb=0) as server:
            events = replayed(server, tables, lambda: load("evening"))
            shown = len(tables["impressions"])
            written = f'funnelrank_exposure_log_records_total{{kind="exposures",outcome="written"}} {float(shown)}'
            wait_until(lambda: written in server.http.get("/metrics").text)
    compact(log)
    # The tables of the same days: what was shown, and every event as a behaviour.
    behaviours = pd.DataFrame(events)[["user_id", "item_id", "action", "scene", "timestamp"]]
    behaviours = behaviours.rename(columns={"timestamp": "time_ms"}).astype({"user_id": int, "item_id": int})
    original = write_tables(tmp_path / "original", tables | {"behaviours": behaviours})
    recipe = parse_recipe(merged({**RECIPE, "log": LOG_SECTION}, {"data.dir": str(original)}), "the test")
    report = join(log, recipe, tmp_path / "data")
    assert report.join_rate == 1.0 and report.rows["impressions"] == shown
    assert differing(tmp_path, recipe, tables["impressions"]) == {MOVED_ITEM}
    # The proof names the feature that moved, of the item and of behaviours with it, and nothing else.
    assert set(verify(log, registry, original).skews) == {"item.length", "behaviour.length"}


def differing(folder: Path, recipe: Any, impressions: pd.DataFrame) -> set[int]:
    """Compare every encoded array of both, bit for bit; return the items whose own numerics differ."""
    described = yaml.safe_load((folder / "data" / "recipe.yaml").read_text())
    described["data"] |= {"split": RECIPE["data"]["split"], "request_id": None}
    both = [open_data(recipe, folder / "cache"), open_data(parse_recipe(described, "joined"), folder / "cache")]
    assert both[0].encoding.vocabulary.keys.tobytes() == both[1].encoding.vocabulary.keys.tobytes()
    item_at = dict(zip(impressions["time_ms"], impressions["item_id"], strict=True))
    items: set[int] = set()
    compared = 0
    for part in ("train", "validation", "test"):
        one, other = (next(iter(ordered_batches(data, part, 10_000))) for data in both)
        assert one.keys() == other.keys()
        times = one["request_time"].numpy()
        assert sorted(times) == sorted(other["request_time"].numpy())
        order = np.argsort(times)
        again = np.argsort(other["request_time"].numpy())
        for name, values in one.items():
            ordered = values.numpy()[order]
            joined = other[name].numpy()[again]
            assert ordered.dtype == joined.dtype and ordered.shape == joined.shape, name
            same = [a.tobytes() == b.tobytes() for a, b in zip(ordered, joined, strict=True)]
            moved = [item_at[time] for time, equal in zip(times[order], same, strict=True) if not equal]
            assert not moved or name in ("item_numerics", "behaviour_numerics"), (part, name)
            items |= set(moved) if name == "item_numerics" else set()
            compared += len(same)
    assert compared > len(impressions)
    return items
