"""Tests the notebook of one's own data: it is made from the page, and its cells run in order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running_service import ROOM_IN_ENVIRONMENT, ROOT

from service.sample.embedded_redis import EmbeddedRedis, free_port
from tools.notebook import NOTEBOOK, PAGE, as_json, main, notebook

# In a process of its own: the kernel's sockets and warnings are not ours.
EXECUTE = """
import sys
import nbclient, nbformat
document = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(document, timeout=300, kernel_name="python3").execute()
nbformat.write(document, sys.argv[1])
"""


def test_the_notebook_is_made_from_the_page(tmp_path: Path) -> None:
    assert NOTEBOOK.read_text() == as_json(notebook(PAGE.read_text())), "run `python -m tools.notebook`"
    assert main([str(tmp_path / "made.ipynb")]) == 0
    assert (tmp_path / "made.ipynb").read_text() == NOTEBOOK.read_text()


@pytest.mark.tools
def test_its_cells_lead_to_a_ranking(tmp_path: Path) -> None:
    # The programs of this tree, where an installation would put them on the PATH.
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in {"funnelrank": "-m funnelrank", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    port = free_port()
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FUNNELRANK_PORT": str(port),
    } | ROOM_IN_ENVIRONMENT
    copied = tmp_path / "hotels.ipynb"
    with EmbeddedRedis() as redis:
        text = NOTEBOOK.read_text().replace("redis://127.0.0.1:6379/0", redis.url)
        copied.write_text(text.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
        command = [sys.executable, "-c", EXECUTE, str(copied)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    cells = json.loads(copied.read_text())["cells"]
    printed = "".join(
        "".join(output.get("text", "")) for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]
    )
    assert '"name":"hotels","version":"1"' in printed
    assert '"degraded":[]' in printed
    assert "pctcvr" in printed and "largest difference" in printed
