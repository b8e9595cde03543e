"""Tests that weights can be read without a copy of the file in memory."""

from pathlib import Path

import torch

from models.training.checkpoint import load_whole, save_weights


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
