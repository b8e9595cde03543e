"""Tests that weights can be read without a copy of the file in memory, and that a killed writer leaves no copy."""

from collections.abc import Callable
from pathlib import Path

import torch

from features.files.writing import replacing
from models.data.cache import open_data
from models.recipe import Recipe
from models.training.checkpoint import load_whole, save_weights
from models.training.outcome import METRICS_FILE, prepare_folder


def mappings_of(path: Path) -> int:
    return sum(line.rstrip().endswith(str(path)) for line in Path("/proc/self/maps").read_text().splitlines())


def test_mapped_weights_lie_in_the_file_and_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    table = torch.rand(5000, 8)
    save_weights({"table": table}, 0, 1, path)
    copied = load_whole(path)["weights"]["table"]
    assert mappings_of(path) == 0
    mapped = load_whole(path, mapped=True)["weights"]["table"]
    assert mappings_of(path) > 0
    assert torch.equal(mapped, table) and torch.equal(copied, table)
    # What is written goes to a copy of the page, not to the file.
    mapped[0, 0] = 9.0
    assert torch.equal(load_whole(path)["weights"]["table"], table)


def test_what_killed_writers_left_of_any_file_of_a_run_is_removed_by_the_next_start(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    data = open_data(recipe, tmp_path / "cache")
    out = tmp_path / "run"
    prepare_folder(out, recipe, data, keep=False)
    (out / METRICS_FILE).touch()
    names = sorted(path.name for path in out.iterdir())
    for name in names:
        with replacing(out / name) as unfinished:
            (out / f"{unfinished.name}x").touch()
    (out / "notes.txt").touch()
    prepare_folder(out, recipe, data, keep=True)
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "notes.txt"])
