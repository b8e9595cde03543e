"""Tests `funnelrank train` in several processes: results, refusals, kills, and torchrun across hosts."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from child_process import child
from small_tables import RECIPE, make_tables, merged, write_tables

from funnelrank.main import main
from models.recipe import Recipe, parse_recipe
from models.training.checkpoint import RESUME_FILE, WEIGHTS_FILE, load_whole
from service.sample.embedded_redis import free_port

MakeRecipe = Callable[..., Recipe]
LONG = {
    "training.epochs": 4,
    "training.batch_size": 16,
    "training.evaluations_per_epoch": 4,
    "training.patience": 99,
    "training.embedding_updates": "lazy_adam",
    "model.dropout": 0.2,
    # A table whose checkpoint takes a while to write.
    "model.embedding.hash_buckets": {"item_id": 100_000},
}


@pytest.fixture
def recipe_file(tiny_recipe: MakeRecipe, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(changes: dict[str, Any]) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tiny_recipe(None, changes).model_dump(mode="json")))
        return path

    return write


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nobody has killed, with its recipe beside it."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_tables(folder / "data", make_tables())
    recipe = parse_recipe(merged(RECIPE, {"data.dir": str(data)} | LONG), "the test")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    done = subprocess.run(command(folder / "recipe.yaml", folder / "run", "--processes", "2"), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return folder / "run"


def words(recipe: Path, out: Path, *more: str) -> list[str]:
    options = ["--out", str(out), "--cache", str(out.parent / "cache"), "--threads", "1", "--reading-steps", "0"]
    return ["train", str(recipe), *options, *more]


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "funnelrank", *words(recipe, out, *more)]


def same(one: Path, other: Path) -> bool:
    a, b = (load_whole(folder / WEIGHTS_FILE)["weights"] for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow  # each process imports torch
def test_two_processes_make_a_whole_run(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    recipe = recipe_file({"training.epochs": 3, "model.embedding.unknown_rate": 0.0, "training.learning_rate": 0.003})
    done = subprocess.run(command(recipe, tmp_path / "two", "--processes", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best weights of step") == 1, "one process says how the run went"
    assert main(words(recipe, tmp_path / "one")) == 0
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    for name, measured in one["parts"]["test"]["outputs"].items():
        assert two["parts"]["test"]["outputs"][name]["auc"] == pytest.approx(measured["auc"], abs=0.01)


@pytest.mark.slow  # each process imports torch
def test_a_run_whose_processes_are_killed_ends_with_the_bits_of_the_uninterrupted_one(
    whole: Path, tmp_path: Path
) -> None:
    recipe = whole.parent / "recipe.yaml"
    killed = tmp_path / "killed"
    with child(command(recipe, killed, "--processes", "2"), stderr=subprocess.PIPE, text=True) as launcher:
        # First the one that does not write, then the one that writes, in the middle of a later checkpoint.
        wait_for((killed / RESUME_FILE).exists, launcher)
        os.kill(process(launcher.pid, 1), signal.SIGKILL)
        before = (killed / RESUME_FILE).stat().st_mtime_ns
        wait_for(lambda: (killed / RESUME_FILE).stat().st_mtime_ns > before, launcher)
        kill_while_it_writes(process(launcher.pid, 0), killed, launcher)
        assert any(killed.glob(f".{RESUME_FILE}.*")), "what it wrote is unfinished"
        _, output = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, output
    assert "process 1 was killed by SIGKILL; going on from the last checkpoint (1 of 3" in output
    assert "process 0 was killed by SIGKILL; going on from the last checkpoint (2 of 3" in output
    assert same(whole, killed)
    assert sorted(path.name for path in whole.iterdir()) == sorted(path.name for path in killed.iterdir())


@pytest.mark.slow  # each process imports torch
def test_processes_end_with_a_killed_launcher_and_their_run_can_be_continued(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "orphaned"
    recipe = whole.parent / "recipe.yaml"
    with child(command(recipe, out, "--processes", "2"), stderr=subprocess.DEVNULL) as launcher:
        wait_for((out / RESUME_FILE).exists, launcher)
        ranks = [process(launcher.pid, number) for number in range(2)]
        launcher.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks))
    assert not (out / "metrics.json").exists()
    done = subprocess.run(command(recipe, out, "--processes", "2", "--resume"), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    assert same(whole, out)


@pytest.mark.slow  # each process imports torch
def test_two_hosts_train_under_torchrun_and_go_on_after_a_kill(whole: Path, tmp_path: Path) -> None:
    """Two agents of torchrun stand for two hosts."""
    recipe = whole.parent / "recipe.yaml"
    out = tmp_path / "hosts"
    port = free_port()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
    torchrun += ["--max-restarts", "2", "--local-addr", "127.0.0.1", "-m", "funnelrank"]
    lo = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    agent = [*torchrun, *words(recipe, out, "--resume")]
    # An agent that is ended ends its worker, which has asked for the signal.
    with child(agent, env=lo, **quiet) as first, child(agent, env=lo, **quiet) as second:
        hosts = (first, second)
        wait_for((out / RESUME_FILE).exists, *hosts)
        workers = [pid for host in hosts for pid in children(host.pid) if number_of(pid) == 1]
        os.kill(workers[0], signal.SIGKILL)
        assert [host.wait(120) for host in hosts] == [0, 0]
    assert same(whole, out)


STARTS = """
import os, signal, sys, time
from pathlib import Path
from models.training.processes.ranks import continues_launch
start, number = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
(Path(sys.argv[1]) / f"{start}-{number}").write_text(str(continues_launch()))
if (start, number) == ("0", "1"):
    # Not before the other one has written, whom torchrun ends then.
    end = time.monotonic() + 120
    while not (Path(sys.argv[1]) / "0-0").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
from funnelrank.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow  # three starts of processes that import torch
def test_processes_that_torchrun_starts_again_do_not_take_an_earlier_run_for_theirs(
    whole: Path, tmp_path: Path
) -> None:
    """One is killed before training has prepared the folder, and one after the first checkpoint."""
    out = shutil.copytree(whole, tmp_path / "out")
    starts = tmp_path / "starts"
    starts.mkdir()
    program = tmp_path / "program.py"
    program.write_text(STARTS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    agent = [*torchrun, "--max-restarts", "2", str(program), str(starts), *words(whole.parent / "recipe.yaml", out)]
    variables = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path.cwd())}
    with child(agent, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as launcher:
        # The earlier run is finished and has no checkpoint: this one is of the second start.
        wait_for((out / RESUME_FILE).exists, launcher)
        os.kill(process(launcher.pid, 1), signal.SIGKILL)
        _, output = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, output
    assert "nothing was trained again" not in output
    assert {path.name: path.read_text() for path in starts.iterdir()} == {
        "0-0": "False",
        "0-1": "False",
        "1-0": "False",
        "1-1": "False",
        "2-0": "True",
        "2-1": "True",
    }
    assert same(whole, out)
    assert (out / "metrics.json").stat().st_mtime_ns > (starts / "2-0").stat().st_mtime_ns


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, ["--processes", "65"], "65 processes, but batches of 64 impressions"),
        ({"training.weighting": {"type": "gradnorm"}}, ["--processes", "2"], "gradnorm compares the gradients"),
        ({"training.epochs": 0}, ["--processes", "2"], "training.epochs"),
    ],
)
def test_what_processes_cannot_train_is_refused_before_any_starts(
    recipe_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    more: list[str],
    message: str,
) -> None:
    recipe = recipe_file({})
    overrides = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    assert main(words(recipe, tmp_path / "out", *overrides, *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_port_in_use_is_named(
    recipe_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        assert main(words(recipe_file({}), tmp_path / "out")) == 1
    assert f"the port of 127.0.0.1:{port} is in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "more", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["--processes", "3"], "torchrun started 2 processes, and --processes is 3"),
        ({"RANK": "0", "WORLD_SIZE": "many"}, [], "WORLD_SIZE is 'many', which is no number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["--device", "cuda:0"], "several processes take a GPU each"),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    recipe_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    more: list[str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(words(recipe_file({}), tmp_path / "out", *more)) == 1
    assert message in capsys.readouterr().err


def wait_for(condition: Callable[[], bool], *processes: "subprocess.Popen[Any]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.0005)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def number_of(pid: int) -> int | None:
    """The number of a process among those of the run; None if it is none of them."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    numbers = [int(variable[5:]) for variable in variables if variable.startswith(b"RANK=")]
    return numbers[0] if numbers else None


def process(launcher: int, number: int) -> int:
    """The process of that number, which the launcher has started."""
    return next(pid for pid in children(launcher) if number_of(pid) == number)


def kill_while_it_writes(pid: int, folder: Path, launcher: "subprocess.Popen[Any]") -> None:
    """Kill a process while a checkpoint is half written."""
    while True:
        wait_for(lambda: any(folder.glob(f".{RESUME_FILE}.*")), launcher)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", launcher)
        if any(folder.glob(f".{RESUME_FILE}.*")):
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGCONT)
