"""Tests that ranges of users have about equally many behaviours, so that each fits into memory."""

from pathlib import Path

import numpy as np
import pytest

from bench.scale.log_tables import LogShape, log_recipe, write_log
from models.data.build import build
from models.data.encoding import behaviours
from models.data.stored.buckets import Buckets
from models.data.tables import tables_of


def test_ranges_have_equally_many_behaviours_though_a_few_users_have_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    first_users: list[int] = []

    def ordered(buckets: Buckets, served: bool, bucket: int) -> np.ndarray:
        events = buckets.read(bucket)
        sizes.append(len(events))
        first_users.append(int(events["user"].min()))
        return in_order(buckets, served, bucket)

    in_order = behaviours._ordered
    monkeypatch.setattr(behaviours, "_ordered", ordered)
    write_log(LogShape(200_000, 4), tmp_path / "log", 1)
    recipe = log_recipe(tmp_path / "log", 4, 0.02)
    encoded = tmp_path / "encoded"
    encoded.mkdir()
    build(recipe, tables_of(recipe, str(tmp_path / "log")), encoded, tmp_path)
    assert len(sizes) >= 4
    assert max(sizes) < 1.5 * np.mean(sizes)
    # The users of the log are skewed: equally many users per range would have given the first one most events.
    widths = np.diff(sorted(first_users))
    assert widths[-1] > 2 * widths[0]
