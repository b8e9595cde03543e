"""The models under test: trained briefly on the sample's tables, once, and exported by the present code."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout

RECIPES = ("kuairand-mmoe-din", "kuairand-esmm")
ATTENTION = frozenset({"kuairand-mmoe-din"})
_SHORT = [
    "--set",
    "data.dir=sample/kuairand",
    "--set",
    "training.epochs=1",
    "--set",
    "training.evaluations_per_epoch=1",
    "--reading-steps",
    "0",
]


def trained(recipe: str, folder: Path, changes: Sequence[str] = ()) -> Path:
    """Return the run of a recipe after one epoch; `changes` are `--set` options, of which the folder does not tell.

    The speed does not depend on the quality of the model.
    """
    run = folder / recipe
    if not (run / "metrics.json").exists():
        more = [word for change in changes for word in ("--set", change)]
        print(f"training {recipe} for one epoch, once, into {run}", flush=True)
        _call("train", f"models/recipes/{recipe}.yaml", "--out", str(run), "--threads", "1", *_SHORT, *more)
    return run


def published(run: Path, registry: Path) -> Path:
    """Return the bundle of a run, live in a registry of its own."""
    _call("export", str(run), "--registry", str(registry), "--version", "1")
    write_rollout(registry, Target(name=run.name, version="1"), "bench")
    return registry / run.name / "1"


def _call(command: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "funnelrank", command, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"funnelrank {command} {' '.join(arguments)} failed: {done.stderr[-1000:]}")
