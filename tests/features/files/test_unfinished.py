"""Tests folders that are filled aside: whole or not at all, and those of killed processes are removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from features.files.unfinished import OWNER, finish, remove_abandoned, unfinished_folder

FILLING = """
import sys
from pathlib import Path
from features.files.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1]), "new.") as folder:
    (folder / "part").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_folder_has_what_was_written_alone(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path, "new.") as folder:
        (folder / "part").write_text("whole")
        finish(folder, tmp_path / "new")
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["part"]


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"), unfinished_folder(tmp_path, "new."):
        raise ValueError("bad")
    assert names(tmp_path) == []


def test_a_name_that_has_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "other").touch()
    with pytest.raises(OSError, match="not empty"), unfinished_folder(tmp_path, "new.") as folder:
        finish(folder, tmp_path / "new")
    assert names(tmp_path / "new") == ["other"]
    assert names(tmp_path) == ["new"]


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    (tmp_path / "new.other").mkdir()  # it has no lock
    command = [sys.executable, "-c", FILLING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with unfinished_folder(tmp_path, "new.") as own:
            remove_abandoned(tmp_path, "new.*")
            assert names(folder) == [OWNER, "part"]
            process.kill()
            process.wait()
            remove_abandoned(tmp_path, "else.*")
            assert folder.is_dir()
            remove_abandoned(tmp_path, "new.*")
            assert names(tmp_path) == sorted(["new.other", own.name])
