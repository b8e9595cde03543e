"""Writes deploy/grafana: `python -m tools.boards`."""

from tools.boards.definitions import BOARDS
from tools.boards.writing import FOLDER, written

if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / f"{board.name}.json").write_text(written(board))
