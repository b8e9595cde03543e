"""Tests the measurement of the item's part of the first layer: known parts give the scores of the plain graph."""

from pathlib import Path

import onnx
import pytest

from tools import item_part

SMALL = Path("sample/registry/kuairand-esmm-small")


@pytest.fixture
def bundle() -> Path:
    return next(SMALL.iterdir())


def test_every_way_to_score_is_measured(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_part, "_ITEMS", 1000)
    monkeypatch.setattr(item_part, "_ROUNDS", 1)
    item_part.main([str(bundle)])
    first, *lines = capsys.readouterr().out.splitlines()
    figures = [float(line.split()[-1]) for line in lines]
    assert str(bundle) in first
    assert len(figures) == 7
    assert min(figures[:-1]) > 0
    assert 0 <= figures[-1] <= 100


def test_a_graph_that_reads_the_item_elsewhere_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    product = next(node for node in model.graph.node if "first.weights.2" in " ".join(node.input))
    model.graph.node.append(onnx.helper.make_node("Gemm", [*product.input, "a_bias"], ["a_second_product"]))
    with pytest.raises(SystemExit, match="reads the item in other places than its first layer"):
        item_part.with_known_parts(model)
