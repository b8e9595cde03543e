"""Tests the cost of a change: makes each change of docs/extend.md in a copy of the tree, in the files of its row."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("features", "tables", "service", "models", "export", "funnelrank")


@dataclass(frozen=True)
class FileEdit:
    """A change of one file: a line after an anchor, or a new file if there is no anchor."""

    path: str
    text: str
    after: str = ""


# A change as docs/extend.md names it -> the edits that make it. An entry of a list comes with its import.
ONLINE = {
    "a fusion function": [
        FileEdit("service/fusion/expression.py", '    "square": (1, np.square),\n', '"abs": (1, np.abs),\n')
    ],
    "a metric": [
        FileEdit(
            "service/metrics/metrics.py",
            '        self.trials = counter("trials", "Trials.")\n',
            "max_gauge = define.max_gauge\n",
        )
    ],
    "a setting": [
        FileEdit(
            "service/settings.py",
            '    trial_ms: Annotated[int, setting("ms", "length of a trial", ge=1, le=9)] = 5\n',
            'model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)\n',
        )
    ],
    "a route": [
        FileEdit(
            "service/api/routes/trial.py",
            '''"""Answers `GET /trial`."""

from fastapi import APIRouter

from service.api.fields import ResponseBody

router = APIRouter()


class TrialState(ResponseBody):
    """The state of the trial."""

    ok: bool = True


@router.get("/trial")
async def trial() -> TrialState:
    """Answers that the trial is running."""
    return TrialState()
''',
        ),
        FileEdit(
            "service/api/application.py",
            "from service.api.routes import trial\n",
            "from service.api.routes.rank import RankRoute\n",
        ),
        FileEdit("service/api/application.py", "    trial.router,\n", "ROUTERS: Final = (\n"),
    ],
    "a store": [
        FileEdit(
            "service/store/trial/__init__.py",
            '''"""A store that knows no row: every entity is ranked on default values."""

from service.store.base import StoredRows
from service.store.item_rows import rows_from_store


class TrialStore:
    """The reading and the writing side."""

    def __init__(self, *_options):
        self.url = _options[0]

    async def fetch(self, layouts, user_id, item_ids, timeout, before=None):
        return StoredRows(None, [], rows_from_store(layouts, item_ids, [None] * len(item_ids)), {}, 0)

    async def schemas(self):
        return {}

    def cache_counts(self):
        return {}

    def close(self):
        pass


open_store = open_writer = TrialStore


def check(url):
    pass
''',
        ),
        FileEdit(
            "service/addresses/store_url.py",
            '    "trial": "service.store.trial",\n',
            'service.store.redis.opening"),\n',
        ),
    ],
}
OFFLINE = {
    "a task kind": [
        FileEdit(
            "models/kinds/trial.py",
            '''"""The kind `trial`: a number, learned by the absolute error."""

from typing import ClassVar, Literal

from models.kinds.value import Value


class Trial(Value):
    """The head's output is the score."""

    type: Literal["trial"] = "trial"
    reported_as: ClassVar[str] = "trial"

    def loss(self, score, label):
        return (score - label).abs()
''',
        ),
        FileEdit(
            "models/kinds/__init__.py",
            "from models.kinds.trial import Trial\n",
            "from models.kinds.value import Value\n",
        ),
        FileEdit("models/kinds/__init__.py", "KINDS = (*KINDS, Trial)\n", "(Probability, Value, MultiClass)\n"),
    ],
    "a model (paper)": [
        FileEdit(
            "models/trunks/trial.py",
            '''"""A trunk of one linear layer."""

from typing import Literal

from models.layers.linear import PartLinear
from models.trunks.base import Trunk, TrunkOptions


class TrialOptions(TrunkOptions):
    """The width of the layer."""

    type: Literal["trial"]
    width: int = 4

    def build(self, spec):
        return TrialTrunk(spec.in_widths, self.width)


class TrialTrunk(Trunk):
    """One layer."""

    def __init__(self, in_widths, width):
        super().__init__()
        self.out_width = width
        self.layer = PartLinear(in_widths, width)

    def forward(self, inputs):
        return self.layer(inputs.parts).unsqueeze(0)
''',
        ),
        FileEdit("models/catalogue.py", "from models.trunks.trial import TrialOptions\n", "star import StarOptions\n"),
        FileEdit(
            "models/catalogue.py",
            '    Entry("trial", "none", "", ("independent",), _POOLING, TrialOptions(type="trial")),\n',
            "_ENTRIES = (\n",
        ),
    ],
}
CHECK_ONLINE = """
import asyncio
import numpy as np
from service.fusion.expression import parse
from service.metrics.metrics import Metrics
from service.server.app import build_app
from service.server.start import WorkerStart
from service.settings import Settings
from service.settings_help import described

assert parse("square(a)").compute({"a": np.array([3.0])}, 1)[0] == 9
metrics = Metrics()
metrics.trials.inc(2)
assert b"funnelrank_trials_total 2.0" in asyncio.run(metrics.page())
assert Settings.from_environment({"FUNNELRANK_TRIAL_MS": "7"}).trial_ms == 7
assert "FUNNELRANK_TRIAL_MS" in described() and "length of a trial" in described()
bypass = build_app(WorkerStart(Settings.from_environment({"FUNNELRANK_REDIS_URL": "trial://here"}), None))
paths = bypass.app.openapi()["paths"]
assert paths["/trial"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
assert bypass.app.state.services.reader.url == "trial://here"
"""
CHECK_OFFLINE = """
import sys
from pathlib import Path
from small_tables import RECIPE, make_tables, merged, write_tables
from export.bundle import export_run
from models.recipe import parse_recipe
from models.train import train
from service.bundle.loading import load_bundle

folder = Path(sys.argv[1])
tables = write_tables(folder / "data", make_tables())
tasks = [{"type": "independent", "name": "long", "label": "long_view", "kind": "trial"}]
model = {"architecture": "trial", "embedding": {"dim": 2, "min_count": 2}, "tower_hidden": []}
changes = {"data.dir": str(tables), "tasks": tasks, "model": model, "training.epochs": 1, "extra_evaluations": []}
recipe = parse_recipe(merged(RECIPE, changes), "the trial")
train(recipe, folder / "run", cache=folder / "cache")
published = export_run(folder / "run", folder / "registry", None)
bundle = load_bundle(published.folder, 1, 100)
assert [(task.name, task.kind) for task in bundle.manifest.tasks] == [("long", "trial")]
"""


def rows() -> dict[str, set[str]]:
    """By change: the files and folders that its row in docs/extend.md names."""
    table = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "extend.md").read_text(), re.MULTILINE)
    return {change: set(re.findall(r"`([\w/.]+(?:\.py|/))`", files)) for change, files in table}


def changed(tree: Path, changes: dict[str, list[FileEdit]]) -> None:
    """Copy the packages to `tree` and make the changes there."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in (edit for edits in changes.values() for edit in edits):
        path = tree / edit.path
        if not edit.after:
            path.parent.mkdir(exist_ok=True)
            path.write_text(edit.text)
            continue
        text = path.read_text()
        assert text.count(edit.after) == 1, f"{edit.path} has no line {edit.after!r}"
        path.write_text(text.replace(edit.after, edit.after + edit.text))


def run(tree: Path, script: str, *arguments: str) -> None:
    path = f"{tree}:{ROOT / 'tests' / 'kit'}"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, cwd=tree, env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", [*ONLINE, *OFFLINE])
def test_the_docs_name_the_files_that_a_change_touches(change: str) -> None:
    named = rows()[change]
    for edit in (ONLINE | OFFLINE)[change]:
        if edit.path.startswith("service/store/trial/"):
            continue  # the new folder, which the row describes by its neighbour
        folders = {f"{parent}/" for parent in Path(edit.path).parents}
        assert named & {edit.path, *folders}, f"the row of '{change}' does not name {edit.path}"


def test_a_model_and_a_task_kind_touch_no_file_of_the_service() -> None:
    assert [edit.path for edits in OFFLINE.values() for edit in edits if edit.path.startswith("service/")] == []


def test_what_the_service_takes_in_one_file_or_one_line(tmp_path: Path) -> None:
    changed(tmp_path, ONLINE)
    run(tmp_path, CHECK_ONLINE)


@pytest.mark.slow
def test_a_model_and_a_task_kind_train_export_and_load_without_a_line_of_the_service(tmp_path: Path) -> None:
    changed(tmp_path / "tree", OFFLINE)
    run(tmp_path / "tree", CHECK_OFFLINE, str(tmp_path))
