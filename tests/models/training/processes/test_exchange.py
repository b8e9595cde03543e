"""Tests that two processes train as one does: the same batches, losses, weights and average, within rounding."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from child_process import child
from small_rankers import small, training_batch
from small_tables import RECIPE, make_tables, merged, write_tables
from training_peer import counting_updates

from models.catalogue import CATALOGUE
from models.data.cache import open_data
from models.recipe import parse_recipe
from models.training.checkpoint import RESUME_FILE, WEIGHTS_FILE, load_whole
from models.training.loop import learn
from models.training.members import member_seeds
from models.training.processes.exchange import changing_buffers
from service.sample.embedded_redis import free_port

PEER = Path(__file__).parents[3] / "kit" / "training_peer.py"
ROOT = Path(__file__).parents[4]
# Every process would hide other ids.
BATCH = 27
BASE: dict[str, Any] = {"training.epochs": 3, "model.embedding.unknown_rate": 0.0}
CLIPPED = {"training.gradient_clip": 0.5, "training.embedding_weight_decay": 0.1, "training.weight_decay": 0.1}
PAIRWISE = {"training.list_losses": {"pctr": {"type": "pairwise"}, "plong_view": {"type": "jrc"}}}
# Not JRC: the bias of its density has a gradient of 0, of which Adam makes steps of rounding.
LISTS_IN_ORDER = {"pctr": {"type": "pairwise"}, "plong_view": {"type": "softmax"}}
WEIGHTED = {"data.weight": "battery", "data.task_weights": {"plong_view": "place"}}
WEIGHTED |= {"training.list_losses": LISTS_IN_ORDER, "training.negative_sampling": 0.6}
# Without drops, which each process draws for itself.
POSITION = {"column": "place", "cross": ["tab", "user_id"], "drop_rate": 0.0, "head": ["pctr", "plong_view"]}
ENSEMBLE = {"training.ensemble": 2, "training.epochs": 1, "model.dropout": 0.2}
# By name: the changes to the recipe, and the share of the rows that process 0 has. The last batch of an epoch has one
# impression, so that one process has none there; with .998 the second process has none in most batches.
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "dense": (CLIPPED, 0.5),
    "lazy": (CLIPPED | {"training.embedding_updates": "lazy_adam"}, 0.3),
    "few": ({"training.embedding_updates": "lazy_adam"}, 0.998),
    "rowwise": ({"training.embedding_updates": "rowwise_adagrad", "training.weighting": {"type": "uncertainty"}}, 0.5),
    "lists": (PAIRWISE | {"training.averaging": 0.0}, 0.6),
    "weights": (WEIGHTED, 0.3),
    "positions": ({"position": POSITION}, 0.4),
}


def recipe_of(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return merged(RECIPE, {"data.dir": str(folder / "data"), "training.batch_size": BATCH} | BASE | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have trained every case."""
    folder = tmp_path_factory.mktemp("together")
    write_tables(folder / "data", make_tables())
    changes_of = CASES | {"diverging": ({"training.learning_rate": 1e30, "training.averaging": 0.0}, 0.998)}
    changes_of["stopped"] = CASES["lazy"]
    changes_of["ensemble"] = (ENSEMBLE, 0.5)
    changes_of["bfloat16"] = (CASES["lazy"][0] | {"training.embedding_dtype": "bfloat16"}, 0.4)
    cases = {
        name: {"recipe": recipe_of(folder, changes), "first_shard": share, "stops": name == "stopped"}
        for name, (changes, share) in changes_of.items()
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    address |= {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    with ExitStack() as stack:
        peers = []
        for number in range(2):
            own = {"RANK": str(number), "LOCAL_RANK": str(number)}
            program = child(
                [sys.executable, str(PEER), str(folder)],
                env=os.environ | address | own,
                stderr=subprocess.PIPE,
                text=True,
            )
            peers.append(stack.enter_context(program))
        ends = [peer.communicate(timeout=300)[1] for peer in peers]
        assert [peer.returncode for peer in peers] == [0, 0], "\n".join(ends)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_trains(folder: Path, tmp_path: Path, name: str) -> None:
    recipe = parse_recipe(recipe_of(folder, CASES[name][0]), "the test")
    data = open_data(recipe, folder / "cache")
    assert len(data.parts["train"]) % BATCH == 1, "one process has no impression in the last batch of an epoch"
    torch.set_num_threads(1)
    with counting_updates() as counts:
        alone = learn(recipe, data, tmp_path / "alone", quiet=True)
    one = load_whole(tmp_path / "alone" / RESUME_FILE)
    two = load_whole(folder / name / RESUME_FILE)
    assert two["progress"]["step"] == one["progress"]["step"] == 3 * alone.epoch_steps
    assert_alike(one, two)
    assert_both_have(folder, name, two["weights"])
    # Every row is updated by one process, and each has about as many.
    updates = [int((folder / f"{name}-{number}.updates").read_text()) for number in range(2)]
    assert sum(updates) == sum(counts)
    assert max(updates) <= 0.6 * sum(updates)


def test_processes_round_a_table_of_bfloat16_alike(folder: Path) -> None:
    weights = load_whole(folder / "bfloat16" / RESUME_FILE)["weights"]
    assert weights["inputs.table.weight"].dtype == torch.bfloat16
    assert_both_have(folder, "bfloat16", weights)


def assert_both_have(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    """Both processes end with the same bits."""
    of_second = load_whole(folder / f"{name}-1.pt")
    for key, value in weights.items():
        assert torch.equal(value, of_second[key]), key


def test_each_member_of_an_ensemble_and_each_process_draws_its_own_random_numbers(folder: Path) -> None:
    """Members that hide the same places are less different from each other than those of one process."""
    recipe = parse_recipe(recipe_of(folder, ENSEMBLE), "the test")
    steps = len(open_data(recipe, folder / "cache").parts["train"]) // BATCH + 1
    drawn: list[int] = []
    for number in range(2):
        seeds = json.loads((folder / f"ensemble-{number}.seeds").read_text())
        sequences = [
            np.random.SeedSequence((seed, step, number)) for seed in member_seeds(recipe) for step in range(steps)
        ]
        assert seeds == [int(sequence.generate_state(1)[0]) for sequence in sequences]
        drawn += seeds
    assert len(set(drawn)) == len(drawn) == 2 * 2 * steps


def test_one_process_continues_the_run_of_two(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(recipe_of(folder, CASES["lazy"][0]), "the test")
    data = open_data(recipe, folder / "cache")
    torch.set_num_threads(1)
    learn(recipe, data, tmp_path / "alone", quiet=True)
    halves = shutil.copytree(folder / "stopped", tmp_path / "halves")
    before = load_whole(halves / RESUME_FILE)["progress"]["step"]
    trained = learn(recipe, data, halves, quiet=True, resume=True)
    assert 0 < before < trained.epoch_steps
    assert_alike(load_whole(tmp_path / "alone" / RESUME_FILE), load_whole(halves / RESUME_FILE))


def assert_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    """One process and two differ by rounding, which Adam enlarges where a gradient is close to 0."""
    for part in ("weights", "average"):
        assert two[part].keys() == one[part].keys()
        for key, value in one[part].items():
            if key == "position.cross_counts":
                # Only the shares have a meaning; with two processes the counts are the mean of both.
                torch.testing.assert_close(two[part][key] / two[part][key].sum(), value / value.sum())
                continue
            torch.testing.assert_close(two[part][key], value, rtol=1e-3, atol=1e-3, msg=f"{part}: {key}")
    for first, second in zip(one["progress"]["losses"], two["progress"]["losses"], strict=True):
        assert second["losses"] == pytest.approx(first["losses"], rel=1e-3)
    for first, second in zip(one["progress"]["evaluations"], two["progress"]["evaluations"], strict=True):
        assert second["score"] == pytest.approx(first["score"], abs=2e-3)


def test_all_processes_stop_at_a_loss_that_is_not_finite_and_the_first_names_it(folder: Path) -> None:
    first, second = ((folder / f"diverging-{number}.txt").read_text() for number in range(2))
    assert "is not finite or has no finite gradient" in first
    assert first.split(":")[0] == second.split(":")[0], "they stop at the same step"
    assert "process 0 says which" in second
    weights = load_whole(folder / "diverging" / WEIGHTS_FILE)["weights"]
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_exchange_knows_every_buffer_that_training_changes(name: str) -> None:
    """Their values in one process would be those of its rows alone."""
    encoder = {"position": True} if name == "mmoe" else {}
    ranker = small(name, **encoder).ranker.train()
    assert_known(ranker, training_batch(small(name, **encoder), 12, behaviours=4))


def test_the_exchange_knows_the_statistics_of_dice() -> None:
    one = small("mmoe", encoders=[{"type": "din", "activation": "dice"}])
    assert len(changing_buffers(one.ranker)) >= 2
    assert_known(one.ranker.train(), training_batch(one, 12, behaviours=4))


def assert_known(ranker: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    known = {id(buffer) for buffer in changing_buffers(ranker)}
    before = {name: buffer.clone() for name, buffer in ranker.named_buffers()}
    ranker.losses(batch)
    changed = [name for name, buffer in ranker.named_buffers() if not torch.equal(buffer, before[name])]
    unknown = [name for name in changed if id(dict(ranker.named_buffers())[name]) not in known]
    assert unknown == []
