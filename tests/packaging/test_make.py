"""Tests the Makefile: its help is complete, and without a suitable Python it says what to install."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # A make that runs this suite passes its flags and variables on; these calls must not get them.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_make_alone_lists_every_target_with_one_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    listed = [line.split()[1] for line in make().stdout.splitlines()]
    assert sorted(listed) == sorted(phony.group(1).split())


def test_an_old_or_missing_python_is_refused_with_what_to_install(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    refused = make("run", f"PYTHON={old}", cwd=tmp_path)
    assert refused.returncode != 0
    assert "older than Python 3.11" in refused.stderr
    missing = make("run", "PYTHON=", cwd=tmp_path)
    assert missing.returncode != 0
    assert "Python 3.11 is needed: install python3.11 and python3.11-venv" in missing.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_port_reaches_the_service() -> None:
    assert "run-sample --sample sample --port 9000" in make("--dry-run", "run", "PORT=9000").stdout
