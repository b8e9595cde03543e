"""Tests bundles whose graph gives vectors beside the task scores: what is checked at the load, and what is computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_bundle import TASKS, publish, vectors_by_hand, with_vectors

from service.bundle.loading import Bundle, load_bundle
from service.bundle.manifest import Manifest
from service.bundle.verify import BundleRejected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_vectors(publish(tmp_path, "1"))


class SessionThatRemembers:
    """Remembers the names of the outputs that it is asked for."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.asked: list[list[str]] = []

    def run(self, names: Any, *more: Any) -> Any:
        self.asked.append(list(names))
        return self._session.run(names, *more)


def remembering(bundle: Bundle) -> SessionThatRemembers:
    session = SessionThatRemembers(bundle.session)
    object.__setattr__(bundle, "session", session)
    return session


def test_the_tasks_are_scored_alone_and_vectors_only_when_they_are_asked_for(folder: Path) -> None:
    bundle = load_bundle(folder, threads=1, largest=100)
    session = remembering(bundle)
    inputs = dict(bundle.golden)
    scores = bundle.score(inputs)
    again, (vectors,) = bundle.score_with(inputs, ["item_vector"])
    assert session.asked == [list(TASKS), [*TASKS, "item_vector"]]
    assert bundle.tasks == TASKS
    assert again.tobytes() == scores.tobytes()
    np.testing.assert_array_equal(vectors, vectors_by_hand(inputs)["item_vector"])


def test_the_manifest_names_the_item_vectors_with_their_width(folder: Path) -> None:
    manifest = load_bundle(folder, threads=1, largest=100).manifest
    assert manifest.item_vectors == {"item_vector": 2}
    assert manifest.task_names == TASKS
    assert manifest.output_names == (*TASKS, "item_vector", "user_representation")


def test_a_bundle_without_vectors_has_the_manifest_of_before(tmp_path: Path) -> None:
    folder = publish(tmp_path, "1")
    manifest = load_bundle(folder, threads=1, largest=100).manifest
    assert manifest.outputs == () and "outputs" not in json.loads(manifest.model_dump_json())


def wrong_item_vector(vectors: dict[str, np.ndarray]) -> None:
    vectors["item_vector"][3, 1] += 0.01


def wrong_user(vectors: dict[str, np.ndarray]) -> None:
    vectors["user_representation"] = vectors["user_representation"] + 1


def short(vectors: dict[str, np.ndarray]) -> None:
    vectors["item_vector"] = vectors["item_vector"][:, :1]


def infinite(vectors: dict[str, np.ndarray]) -> None:
    vectors["user_representation"] = np.array([np.inf], np.float32)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (wrong_item_vector, "golden_mismatch", "item_vector differs by"),
        (wrong_user, "golden_mismatch", "user_representation differs by"),
        (short, "golden_mismatch", "item_vector: the graph gives the shape (64, 2), the trainer's is (64, 1)"),
        (infinite, "golden_not_finite", "user_representation"),
    ],
)
def test_a_vector_that_differs_from_the_trainers_is_refused(tmp_path: Path, change: Any, code: str, words: str) -> None:
    folder = with_vectors(publish(tmp_path, "1"), change)
    with pytest.raises(BundleRejected) as refused:
        load_bundle(folder, threads=1, largest=100)
    assert refused.value.code == code
    assert words in refused.value.detail


def change_outputs(folder: Path, outputs: list[dict[str, Any]]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"outputs": outputs}))


USER = {"name": "user_representation", "shape": [1]}
ITEM = {"name": "item_vector", "shape": ["C", 2]}


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([USER], "the graph gives"),
        ([USER, ITEM, {"name": "more", "shape": [3]}], "the manifest states"),
        ([USER, ITEM | {"shape": ["C", 3]}], "output 'item_vector' is tensor(float) ['C', 2], the manifest says"),
        ([USER | {"shape": ["C", 1]}, ITEM], "output 'user_representation'"),
    ],
)
def test_a_manifest_that_states_other_vectors_than_the_graph_gives_is_refused(
    folder: Path, outputs: list[dict[str, Any]], words: str
) -> None:
    change_outputs(folder, outputs)
    with pytest.raises(BundleRejected) as refused:
        load_bundle(folder, threads=1, largest=100)
    assert refused.value.code == "outputs_mismatch"
    assert words in refused.value.detail


@pytest.mark.parametrize("outputs", [[ITEM, ITEM], [ITEM | {"name": "pctr"}], [ITEM | {"shape": ["L", 2]}]])
def test_a_vector_needs_a_name_of_its_own_and_a_shape(folder: Path, outputs: list[dict[str, Any]]) -> None:
    change_outputs(folder, outputs)
    with pytest.raises(BundleRejected, match="manifest_invalid"):
        load_bundle(folder, threads=1, largest=100)
    with pytest.raises(ValueError, match="outputs"):
        Manifest.model_validate_json((folder / "manifest.json").read_bytes())
