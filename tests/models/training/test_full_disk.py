"""Tests that a disk without room ends a command in one line, and leaves the file of before."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small_disk import files_of_at_most
from small_tables import make_tables

from funnelrank.main import main, message_of
from models.data.cache import open_data
from models.recipe import Recipe, load_recipe
from models.training.checkpoint import load_whole, save_whole

LIMITED = """
import resource, signal, sys, torch
from pathlib import Path
from funnelrank.main import message_of
from models.training.checkpoint import save_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_whole({"weights": torch.zeros(100_000)}, Path(sys.argv[1]))
except Exception as error:
    print(message_of(error))
"""


def test_a_checkpoint_that_finds_no_room_is_one_line_and_the_one_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    save_whole({"step": 1}, path)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True)
    assert done.stdout == f"{path}: cannot be written; is the disk full?\n", done.stderr
    assert load_whole(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["resume.pt"]


def ends_in_one_line(arguments: list[str], size: int, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command that writes a file of more than `size` bytes; its one line names `name`."""
    with files_of_at_most(size):
        code = main(arguments)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert line.startswith(f"error: {name}: ") and "Errno" not in line


def test_a_report_of_paths_without_room_leaves_the_pages_of_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tables()["behaviours"].to_csv(tmp_path / "events.csv", index=False)
    (tmp_path / "paths.md").write_text("of before")
    words = ["--click", "exposure", "--actions", "click", "--conversion", "click", "--out"]
    arguments = ["paths", str(tmp_path / "events.csv"), *words, str(tmp_path / "paths")]
    ends_in_one_line(arguments, 100, str(tmp_path / "paths.md"), capsys)
    assert (tmp_path / "paths.md").read_text() == "of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.csv", "paths.md"]


def test_a_simulated_world_without_room_leaves_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", "position", "--size", "0.01", "--tables", str(tmp_path / "world")]
    ends_in_one_line(arguments, 100, str(tmp_path / "world"), capsys)
    assert list((tmp_path / "world").iterdir()) == []


@pytest.mark.parametrize("full", ["run", "cache"])
def test_a_training_without_room_names_its_folder_and_leaves_no_half_file(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str], full: str
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe().model_dump(mode="json")))
    if full == "run":
        open_data(load_recipe(recipe), tmp_path / "cache")
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    name = tmp_path / "run" / "recipe.yaml" if full == "run" else tmp_path / "cache"
    ends_in_one_line(arguments, 500, str(name), capsys)
    assert list((tmp_path / full).iterdir()) == []


@pytest.mark.parametrize("name", ["file/run", "absent/run"])
def test_an_error_of_the_system_names_the_file_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        (tmp_path / name).open("w")
    message = message_of(error.value)
    assert message is not None
    assert message.startswith(f"{tmp_path / name}: ")
    assert "Errno" not in message
