"""Tests that tables whose files have one name, in folders of their own, do not hide each other."""

from pathlib import Path

import pandas as pd

from models.data.tables import table_hashes
from tables import open_table


def test_a_change_in_either_of_two_files_of_one_name_changes_the_hashes(tmp_path: Path) -> None:
    def written(role: str, value: int) -> None:
        (tmp_path / role).mkdir(exist_ok=True)
        pd.DataFrame({"x": [value]}).to_parquet(tmp_path / role / "all.parquet")

    def hashes() -> dict[str, str]:
        roles = ("users", "items")
        return table_hashes({role: open_table(tmp_path / role / "all.parquet", role) for role in roles})

    written("users", 1)
    written("items", 2)
    before = hashes()
    written("users", 3)
    assert hashes() != before
    assert sorted(before) == ["all.parquet", "items: all.parquet"]
