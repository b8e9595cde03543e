"""Writes sample/events.json: what users did with the candidates of sample/request.json in the hours before it.

`make sample` runs it. `make run` sends the file to `/events`, so that the counters of sample/rule-features.yaml have
numbers. The same events stand in the table of behaviours, so that no sequence changes.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLE = Path(__file__).parents[1] / "sample"
HOURS = 6


def events_of(sample: Path) -> list[dict[str, Any]]:
    """Return the events, oldest first."""
    request = json.loads((sample / "request.json").read_text())
    end_ms = request["timestamp"]
    table = pq.read_table(sample / "kuairand" / "behaviours.parquet")
    item_ids = pc.cast(table["item_id"], "string")
    times = table["time_ms"]
    recent = pc.and_(pc.greater_equal(times, end_ms - HOURS * 3_600_000), pc.less(times, end_ms))
    of_request = pc.is_in(item_ids, value_set=pc.cast(request["candidates"], "string"))
    # Exposures of before the log have no times of their own.
    has_time = pc.not_equal(table["action"], "exposure")
    chosen = table.filter(pc.and_(pc.and_(recent, of_request), has_time))
    rows = chosen.sort_by([("time_ms", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")])
    return [
        {
            "user_id": str(row["user_id"]),
            "item_id": str(row["item_id"]),
            "action": row["action"],
            "scene": str(row["scene"]),
            "timestamp": row["time_ms"],
        }
        for row in rows.to_pylist()
    ]


def main() -> None:
    lines = ",\n".join(json.dumps(event) for event in events_of(SAMPLE))
    (SAMPLE / "events.json").write_text(f'{{"events": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
