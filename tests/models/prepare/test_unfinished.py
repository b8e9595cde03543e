"""Tests that `prepare` leaves the tables of before if the disk is full or Ctrl-C arrives."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.prepare.write import whole_folder

ROOT = Path(__file__).parents[3]
LIMITED = """
import resource, signal, sys
from funnelrank.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
sys.exit(main(sys.argv[1:]))
"""
INTERRUPTED = """
import os, signal, sys
import models.prepare.small as small
from funnelrank.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
write_table = small.write_table

def write_and_interrupt(table, path):
    write_table(table, path)
    os.kill(os.getpid(), signal.SIGINT)

small.write_table = write_and_interrupt
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("program", "code"), [(LIMITED, 1), (INTERRUPTED, 3)], ids=["full disk", "Ctrl-C"])
def test_prepare_that_does_not_finish_is_one_line_and_changes_nothing(tmp_path: Path, program: str, code: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "impressions.parquet").write_text("of before")
    arguments = ["prepare", "small", "--source", "sample/census", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("impressions.parquet", "of before")]


def test_what_a_killed_prepare_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from models.prepare.write import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'users.parquet').touch(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False, timeout=120)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    with whole_folder(tmp_path) as folder:
        (folder / "items.parquet").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]
