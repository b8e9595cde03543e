"""Writes the four CSVs of an invented hotel site, for the walk of docs/your-own-data.md.

python -m tools.hotels data/hotels
"""

import argparse
import sys
from pathlib import Path

import numpy as np

START_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z
DAYS = 10
DAY_MS = 86_400_000
SEARCHES = 500
SHOWN = 6
USERS = 60
HOTELS = 30


def write_hotels(folder: Path) -> None:
    """Write four CSVs with what the page allows: text ids, gaps, a byte order mark, a quoted line break, lists with
    bars. Users of a group prefer the hotels of one city, and more stars bring more bookings.
    """
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    users = []
    for i in range(USERS):
        country = "" if i % 7 == 0 else ["dk", "no", "se"][i % 3]
        age = "" if i % 5 == 0 else 20 + i % 40
        users.append(f"u-{i:03},{country},{age}")
    (folder / "users.csv").write_text("\n".join(["user_id,country,age", *users]) + "\n", encoding="utf-8-sig")
    stars = [None if i % 9 == 4 else 1 + i % 5 for i in range(HOTELS)]
    items = [
        f'h-{i:02},city-{i % 4},"Hotel {i},\nby the sea",{"|".join(["wifi", "pool", "bar"][: i % 4])},'
        f"{'' if stars[i] is None else stars[i]}"
        for i in range(HOTELS)
    ]
    (folder / "items.csv").write_text("\n".join(["item_id,city,name,amenities,stars", *items]) + "\n")
    impressions = ["search_id,user_id,item_id,time_ms,device,click,booking"]
    behaviours = ["user_id,item_id,action,scene,time_ms"]
    for search, time in enumerate(np.sort(START_MS + rng.integers(0, DAYS * DAY_MS, SEARCHES)).tolist()):
        user = int(rng.integers(USERS))
        device = ["phone", "web"][search % 2]
        for hotel in rng.permutation(HOTELS)[:SHOWN].tolist():
            click = int(rng.random() < (0.7 if hotel % 4 == user % 4 else 0.15))
            booking = int(click and rng.random() < 0.1 + 0.1 * (stars[hotel] or 0))
            impressions.append(f"s{search},u-{user:03},h-{hotel:02},{time},{device},{click},{booking}")
            if click:
                behaviours.append(f"u-{user:03},h-{hotel:02},click,search,{time}")
    (folder / "impressions.csv").write_text("\n".join(impressions) + "\n")
    (folder / "behaviours.csv").write_text("\n".join(behaviours) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.hotels",
        description="Write the four CSVs of an invented hotel site into a new folder.",
        epilog="example: python -m tools.hotels data/hotels",
    )
    parser.add_argument("folder", type=Path, help="the folder to make")
    folder = parser.parse_args(arguments).folder
    if folder.exists():
        sys.stderr.write(f"error: {folder} exists already\n")
        return 1
    write_hotels(folder)
    sys.stdout.write(f"{folder}: {SEARCHES * SHOWN} impressions of {USERS} users and {HOTELS} hotels\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
