"""Tests that a disk without room ends a command in one line, and leaves the file of before."""

import subprocess
import sys
from pathlib import Path

import pytest

from funnelrank.main import message_of
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


@pytest.mark.parametrize("name", ["file/run", "absent/run"])
def test_an_error_of_the_system_names_the_file_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        (tmp_path / name).open("w")
    message = message_of(error.value)
    assert message is not None
    assert message.startswith(f"{tmp_path / name}: ")
    assert "Errno" not in message
