"""Tests the `funnelrank` program: help without heavy imports, examples, exit codes, aliases, completion."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import redis
import torch
from click.testing import CliRunner

from funnelrank import __version__, exit_codes, main
from funnelrank.commands.data import SIMULATORS
from funnelrank.commands.exporting import PRECISIONS
from funnelrank.main import COMMANDS, program
from service.errors import Conflict

ROOT = Path(__file__).parents[2]
HELP_IN_ONE_PROCESS = """
import json, sys
from funnelrank.main import COMMANDS, main
for words in [[], *([name] for name in COMMANDS)]:
    assert main([*words, "--help"]) == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
ALIASES = {
    "service": "Commands:",
    "models.train": "funnelrank train",
    "models.tune": "funnelrank tune",
    "models.benchmark": "funnelrank benchmark",
    "models.list": "funnelrank models",
    "models.paths": "funnelrank paths",
    "models.prepare": "funnelrank prepare",
    "models.simulators": "funnelrank simulate",
    "models.predict": "funnelrank predict",
    "export": "funnelrank export",
    "export.sign": "funnelrank sign",
    "loadtest": "funnelrank loadtest",
    "loadtest.soak": "funnelrank soak",
    "loadtest.swaps.cost": "funnelrank swap-cost",
    "loadtest.swaps.republish": "funnelrank republish",
    "bench": "funnelrank bench",
    "bench.behaviours": "funnelrank bench-behaviours",
    "bench.brownout": "funnelrank bench-brownout",
    "bench.store_clients": "funnelrank bench-clients",
    "bench.threads": "funnelrank bench-threads",
}


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_no_help_imports_torch_or_onnxruntime() -> None:
    done = run("-c", HELP_IN_ONE_PROCESS)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"torch", "onnxruntime", "onnx", "pandas", "sklearn", "matplotlib", "optuna", "locust", "gevent", "fastapi"}
    assert modules & heavy == set()


def test_the_list_of_commands_imports_no_command() -> None:
    done = run("-c", "import sys; from funnelrank.main import main; main(['--help']); print(sorted(sys.modules))")
    assert "funnelrank.commands" not in done.stdout.splitlines()[-1]
    assert "pydantic" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_of_its_command(name: str) -> None:
    text = CliRunner().invoke(program, [name, "--help"]).output
    assert "example:" in text
    assert f"funnelrank {name}" in text.partition("example:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize(("module", "usage"), ALIASES.items())
def test_an_alias_has_the_options_of_its_command(module: str, usage: str) -> None:
    done = run("-W", "ignore", "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert usage in done.stdout


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["serv"], ["train"], ["inspect", "shop", "7"], ["loadtest", "--rate", "-1"], ["rollout", "--to", "3"], []]
)
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 2
    assert "Usage: funnelrank" in capsys.readouterr().err


def test_a_refusal_is_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["rollout", "--registry", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", ["load", "train", "serve"])
def test_an_interruption_is_3_and_says_how_to_go_on(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "invoke", interrupted)
    assert main.main([name, *({"train": ["x.yaml"]}.get(name, []))]) == 3
    assert COMMANDS[name].resume in capsys.readouterr().err


@pytest.mark.parametrize(("package", "name"), sorted(exit_codes.REFUSALS))
def test_every_refusal_that_is_listed_exists(package: str, name: str) -> None:
    folder = ROOT / package
    if folder.is_dir():
        sources = [path.read_text() for path in folder.rglob("*.py")]
        assert sum(f"\nclass {name}(" in source for source in sources) == 1
    else:
        places = {"builtins": builtins, "redis": redis.exceptions, "torch": torch.onnx}
        assert issubclass(getattr(places[package], name), Exception)


def test_a_refusal_is_recognised_by_its_base_class() -> None:
    assert exit_codes.is_refusal(FileNotFoundError("x"))
    assert exit_codes.is_refusal(Conflict("x"))
    assert exit_codes.is_refusal(redis.exceptions.ConnectionError("x"))
    assert not exit_codes.is_refusal(ValueError("x"))
    assert not exit_codes.is_refusal(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("missing", "words", "advice"),
    [
        ("torch", "train x.yaml", "pip install 'funnelrank[train]'"),
        ("gensim", "item-vectors x.yaml --out y.parquet", "pip install 'funnelrank[vectors]'"),
        ("locust", "loadtest", "pip install 'funnelrank[loadtest]'"),
        ("bench", "bench", "has no bench/"),
        ("models", "models", "has no models/"),
        ("loadtest", "loadtest", "has no loadtest/"),
    ],
)
def test_a_part_that_is_not_installed_is_named(missing: str, words: str, advice: str) -> None:
    hidden = (
        f"import sys; sys.modules[{missing!r}] = None; from funnelrank.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run("-c", hidden, *words.split())
    assert done.returncode == 1
    assert advice in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == 0
    assert "_FUNNELRANK_COMPLETE" in capsys.readouterr().out


def test_the_shell_completes_commands_and_options() -> None:
    environment = os.environ | {
        "_FUNNELRANK_COMPLETE": "bash_complete",
        "COMP_WORDS": "funnelrank train --re",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "funnelrank"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["plain,--resume", "plain,--reading-steps"]


def test_what_is_written_twice_agrees() -> None:
    """The help repeats some lists, so that it need not import torch; they must equal their source."""
    from typing import get_args

    from export.reduced.reduction import MAX_LOSS
    from models.data.cache import DEFAULT_CACHE
    from models.simulators.run import SIMULATORS as SOURCE
    from service.bundle.manifest import Reduced

    options = {o.name: o.default for o in program.get_command(click.Context(program), "export").params}  # type: ignore[union-attr]
    assert options["max_auc_loss"] == MAX_LOSS
    assert options["cache"] == DEFAULT_CACHE
    assert list(SOURCE) == SIMULATORS
    assert ["float32", *get_args(Reduced)] == PRECISIONS
