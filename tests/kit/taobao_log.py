"""A synthetic log in the format of Taobao's UserBehavior.csv, which may not be copied into a repository."""

from pathlib import Path

import numpy as np
import pandas as pd

# 25 November 2017, 00:00 in China
START_S = 1_511_539_200
DAYS = 9


def write_log(folder: Path, users: int = 60, items: int = 400, categories: int = 20, events: int = 120) -> Path:
    """Write `folder/UserBehavior.csv`: no header, user by user, the events of each by time; return the folder."""
    rng = np.random.default_rng(0)
    n = users * events
    user = np.repeat(np.arange(1, users + 1), events)
    item = rng.integers(1, items + 1, n)
    time_s = START_S + np.sort(rng.integers(0, DAYS * 86_400, (users, events)), axis=1).ravel()
    kind = rng.choice(["pv", "cart", "fav", "buy"], n, p=[0.7, 0.1, 0.1, 0.1])
    log = pd.DataFrame({"user": user, "item": item, "category": item % categories, "kind": kind, "time": time_s})
    folder.mkdir(parents=True, exist_ok=True)
    log.to_csv(folder / "UserBehavior.csv", header=False, index=False)
    return folder
