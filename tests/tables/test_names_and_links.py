"""Tests how the files of a table are found: links, hidden names, folders that may not be read, names like patterns."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tables import TableError, open_table

NOBODY = 65534


def _part(folder: Path, name: str, columns: dict[str, object]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _texts(place: Path, column: str = "x") -> list[str]:
    return [text for batch in open_table(place, "items").batches([column]) for text in batch.texts(column)]


@contextmanager
def _without_privileges() -> Iterator[None]:
    """The super-user reads every folder; another user does not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_hidden_name_that_leads_nowhere_is_left_out(tmp_path: Path) -> None:
    """Emacs locks a file by a link to no file."""
    _part(tmp_path, "log/a.parquet", {"x": [1]})
    (tmp_path / "log/.#a.parquet").symlink_to("somebody@host.1")
    assert _texts(tmp_path / "log") == ["1"]


def test_a_link_to_a_folder_elsewhere_is_read(tmp_path: Path) -> None:
    _part(tmp_path, "elsewhere/a.parquet", {"x": [1]})
    (tmp_path / "log").mkdir()
    (tmp_path / "log/day=1").symlink_to(tmp_path / "elsewhere")
    assert _texts(tmp_path / "log") == ["1"]


@pytest.mark.parametrize("target", [".", ".."])
def test_a_link_to_a_folder_above_it_is_refused_by_its_name(tmp_path: Path, target: str) -> None:
    _part(tmp_path, "log/day=1/a.parquet", {"x": [1]})
    (tmp_path / "log/day=1/up").symlink_to(target)
    with pytest.raises(TableError, match="day=1/up' is a link to a folder above it$"):
        open_table(tmp_path / "log", "items")


@pytest.mark.parametrize("link", ["latest", "day=2/b.parquet"])
def test_a_file_with_two_names_does_not_count_twice(tmp_path: Path, link: str) -> None:
    _part(tmp_path, "log/day=1/a.parquet", {"x": [1]})
    _part(tmp_path, "log/day=2/a.parquet", {"x": [2]})
    target = tmp_path / "log/day=1" / ("." if link == "latest" else "a.parquet")
    (tmp_path / "log" / link).symlink_to(target)
    with pytest.raises(TableError, match=r"'day=1/a\.parquet' and '.*' in .* are one file through a link"):
        open_table(tmp_path / "log", "items")
    assert _texts(tmp_path / "log/day=*/a.parquet") == ["1", "2"]


def test_a_folder_that_may_not_be_read_is_refused() -> None:
    """Its rows would be missing without a word."""
    with TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        _part(folder, "day=1/a.parquet", {"x": [1]})
        _part(folder, "day=2/a.parquet", {"x": [2]})
        (folder / "day=2").chmod(0)
        with _without_privileges(), pytest.raises(TableError, match="Permission denied: .*day=2"):
            open_table(folder, "items")
        (folder / "day=2").chmod(0o755)


@pytest.mark.parametrize("place", ["logs [1]/*.parquet", "logs [1]/a.parquet", "logs [1]", "logs [1]/b?.parquet"])
def test_a_folder_may_have_a_name_like_a_pattern(tmp_path: Path, place: str) -> None:
    _part(tmp_path, "logs [1]/a.parquet", {"x": [1]})
    _part(tmp_path, "logs [1]/b?.parquet", {"x": [2]})
    expected = {"logs [1]/a.parquet": ["1"], "logs [1]/b?.parquet": ["2"]}
    assert _texts(tmp_path / place) == expected.get(place, ["1", "2"])


@pytest.mark.parametrize("inside", ["day=1", "day=2"])
def test_a_column_that_is_a_number_in_one_file_and_a_folder_of_another_is_refused(tmp_path: Path, inside: str) -> None:
    """The folder `day=03` is not the number 3."""
    for day in ("day=1", "day=2", "day=03"):
        _part(tmp_path, f"log/{day}/a.parquet", {"x": [1], "day": [3]} if day == inside else {"x": [1]})
    with pytest.raises(TableError, match="column 'day' is .*; the files of a table have one schema"):
        open_table(tmp_path / "log", "items").require({"day": "features.context"})


@pytest.mark.parametrize("inside", [1, 2])
def test_a_csv_may_have_what_is_a_folder_of_another(tmp_path: Path, inside: int) -> None:
    for day in (1, 2):
        folder = tmp_path / f"log/day={day}"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text("x,day\n1,3.0\n" if day == inside else "x\n1\n")
    assert _texts(tmp_path / "log", "day") == (["3.0", "2"] if inside == 1 else ["1", "3.0"])
