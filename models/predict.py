"""The command `python -m models.predict`: every test impression's scores, and what a service makes of the same."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from models.data.cache import DEFAULT_CACHE
from models.data.split import PARTS
from models.errors import RecipeError
from models.prediction.replay import Comparison, ReplayError, replay
from models.prediction.rows import score_run
from models.training.run import RunError
from tables import TableError

TOLERANCE = 1e-4  # as for a bundle's golden request
EXAMPLE = """example:
  python -m models.predict runs/kuairand-mmoe
  python -m models.predict runs/kuairand-mmoe --against http://127.0.0.1:8000
"""


def lines(found: Comparison) -> Iterator[str]:
    """A comparison as lines for the terminal."""
    yield f"{found.impressions:,} impressions in {found.requests:,} requests to {found.model}"
    for reason, count in sorted(found.degraded.items()):
        yield f"degraded: {reason} in {count:,} requests"
    for name, largest in found.largest.items():
        yield f"{name:<28} largest difference {largest:.2e}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m models.predict",
        description="Writes the scores of every impression of a run's test part to a Parquet file, with ids, time and "
        "labels. With --against, asks a service for the same and prints the largest difference; the service must rank "
        "with the run's bundle and hold the run's users, items and behaviours.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("run", type=Path, metavar="RUN", help="the folder that training wrote")
    out.add_argument("--part", choices=PARTS, default="test", help="which part of the data (default: test)")
    out.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write (default: RUN/predictions-<part>.parquet)"
    )
    out.add_argument("--against", metavar="URL", help="address of a running service, as http://127.0.0.1:8000")
    out.add_argument(
        "--cache",
        type=Path,
        default=DEFAULT_CACHE,
        metavar="DIR",
        help="where encoded data is kept (default: %(default)s)",
    )
    return out


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    out = given.out or given.run / f"predictions-{given.part}.parquet"
    try:
        rows = score_run(given.run, given.part, given.cache)
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.table(), out)
        print(f"{len(rows):,} impressions: {out}")
        if given.against is None:
            return 0
        found = replay(rows, given.against)
    except (RunError, RecipeError, TableError, ReplayError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines(found)))
    if max(found.largest.values(), default=0.0) > TOLERANCE:
        print(f"error: the service scores differently: more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
