"""Tests that every command names a damaged file of the log in one line, wherever the damage is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from logged_tables import LOG_SECTION, Shown
from small_tables import RECIPE, make_tables

from funnelrank.main import main
from loop.erasure.tables import forget_in_tables
from loop.errors import LogError


@pytest.fixture(scope="module")
def shown() -> Shown:
    tables = make_tables()
    tables["impressions"] = tables["impressions"].head(100)
    return Shown(tables, RECIPE["features"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def break_footer(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"xxxxPAR1")


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def break_pages(path: Path) -> None:
    """Overwrite the records; the footer stays."""
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none")
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    noise = np.random.default_rng(1).bytes(footer - 4)
    path.write_bytes(content[:4] + noise + content[footer:])


DAMAGES = [truncate, empty, break_footer, become_folder, break_pages]


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_command_names_a_damaged_file(
    tmp_path: Path, shown: Shown, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    log = shown.write(tmp_path / "log", shown.rows())
    broken = sorted((log / "hours").glob("*/exposures.parquet"))[-1]
    damage(broken)
    (tmp_path / "registry").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "log": LOG_SECTION}))
    with_registry = ["--registry", str(tmp_path / "registry")]
    with_recipe = ["--recipe", str(recipe), "--out"]
    for command in (
        ["replay", "none", *with_registry],
        ["why", "1", "none", "neither", *with_registry],
        ["join", *with_recipe, str(tmp_path / "data")],
        ["quality", *with_recipe, str(tmp_path / "quality.html")],
    ):
        assert main([*command, "--log", str(log)]) == 1, command
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{broken} cannot be read" in line, command


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_erasure_names_a_damaged_table(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    table = tmp_path / "impressions.parquet"
    pq.write_table(pa.table({"user_id": ["1", "2"], "item_id": ["5", "6"]}), table)
    damage(table)
    with pytest.raises(LogError, match=r"impressions.parquet cannot be read \(.*\); move it away, or restore it"):
        forget_in_tables(tmp_path, "1")
