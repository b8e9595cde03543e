"""Writes the notebook of the walk in docs/your-own-data.md: `python -m tools.notebook [NOTEBOOK.ipynb]`.

The page stays the source: its recipe and commands become cells, its text becomes the text between them.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "your-own-data.md"
NOTEBOOK = ROOT / "docs" / "your-own-data.ipynb"
_WALK = "\n## From CSVs to a ranking\n"
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAGES = "The other sections of `docs/your-own-data.md` describe the tables, features, tasks and models."
# A page has a second terminal for the service; a notebook starts it in the background and stops it at the end.
_SERVE = """import subprocess
import time
import urllib.request

with open("serve.log", "w") as log:
    service = subprocess.Popen({command}, stdout=log, stderr=log)
for _ in range(600):
    try:
        with urllib.request.urlopen("http://127.0.0.1:8000/readyz") as answer:
            print(answer.status)
            break
    except OSError:
        assert service.poll() is None, "serve.log says why the service ended"
        time.sleep(0.1)
else:
    raise TimeoutError("the service is not ready after a minute: see serve.log")
"""
_STOP = "service.terminate()\nservice.wait()\n"


def notebook(page: str) -> dict[str, Any]:
    """Return the notebook (nbformat 4.5) of the walk in the text of the page."""
    walk = page.partition(_WALK)[2].partition("\n## ")[0]
    cells = [_text("# From CSVs to a ranking\n\nMade from `docs/your-own-data.md` by `python -m tools.notebook`.")]
    end = 0
    for block in _BLOCK.finditer(walk):
        cells.append(_text(walk[end : block.start()]))
        cells += _cells_of(*block.groups())
        end = block.end()
    cells += [_text(walk[end:]), _code(_STOP), _text(_PAGES)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:02}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cells_of(language: str, title: str | None, block: str) -> list[dict[str, Any]]:
    """Return the cells of a fenced block: a file is written, commands run, other text is shown."""
    if title is not None:
        return [_code(f"%%writefile {title}\n{block}")]
    if language not in ("sh", "bash"):
        return [_text(f"```{language}\n{block}```")]
    if block.strip() == "funnelrank serve":
        return [_code(_SERVE.format(command=json.dumps(block.split())))]
    # A variable that is exported in one cell must reach the others.
    exports = re.findall(r"^export (\w+=\S+)$", block, re.MULTILINE)
    commands = re.sub(r"^export .*\n", "", block, flags=re.MULTILINE)
    cells = [_code("\n".join(f"%env {export}" for export in exports))] if exports else []
    return [*cells, _code(f"%%sh\nset -e\n{commands}")]


def _text(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip()}


def _code(text: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": text.strip()}


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the notebook to the named file, or to its place in the docs."""
    given = sys.argv[1:] if arguments is None else arguments
    out = Path(given[0]) if given else NOTEBOOK
    out.write_text(as_json(notebook(PAGE.read_text())))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
