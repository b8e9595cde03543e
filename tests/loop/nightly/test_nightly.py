"""Tests the nightly run: it publishes what is good enough, refuses the rest, and goes on after it was killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from logged_tables import LOG_SECTION, Shown, write_log
from object_store import PREFIX, URI, object_store
from small_tables import RECIPE, make_tables, merged, write_tables

from export.bundle import export_run
from funnelrank.main import main
from loop.nightly.compare import compare_task
from loop.nightly.config import read_config
from loop.nightly.start import start_of
from loop.nightly.steps import FinishedStep
from models.errors import RecipeError
from models.kinds import PROBABILITY
from models.metrics.paired import PairedMetric
from models.prediction.rows import ScoredRows
from models.recipe import load_recipe, parse_recipe
from models.structures.base import Output
from models.train import train
from service.bundle.manifest import Manifest
from service.bundle.registry import Target
from service.rollout.lines.changes import write_rollout
from service.rollout.rollout import Rollout, read_rollout
from tables.log_records import RecordKind

HOUR = 3_600_000
STEPS = ["compact", "join", "train", "compare", "export", "rollout"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of the small tables, and a registry whose live version was trained on the same tables."""
    folder = tmp_path_factory.mktemp("nightly")
    tables = make_tables()
    tables["impressions"] = tables["impressions"].sort_values("time_ms", kind="stable")
    write_tables(folder / "tables", tables)
    recipe = parse_recipe(merged(RECIPE, {"data.dir": str(folder / "tables")}), "test")
    train(recipe, folder / "live", cache=folder / "cache", reading_steps=0, quiet=True)
    export_run(folder / "live", folder / "registry", version=None)
    write_rollout(folder / "registry", Target(name="tiny", version="1"), "test")
    shown = Shown(tables, RECIPE["features"])
    rows = shown.rows()
    last = max(record["logged_ms"] for record in rows[RecordKind.EXPOSURES]) + 3 * HOUR
    closing = {"event_id": "last", "user_id": "0", "item_id": "none", "action": "nothing"}
    rows[RecordKind.EVENTS].append(closing | {"time_ms": last, "logged_ms": last})
    by_hour: dict[int, list[dict[str, Any]]] = {}
    for record in rows.pop(RecordKind.EXPOSURES):
        by_hour.setdefault(record["logged_ms"] // HOUR, []).append(record)
    log = shown.write(folder / "log", rows)
    for records in by_hour.values():
        write_log(log, {RecordKind.EXPOSURES: records})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(merged(RECIPE, {"data.dir": "nowhere"}) | {"log": LOG_SECTION}))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of what is made, and a configuration for it."""
    for name in ("log", "registry"):
        shutil.copytree(made / name, tmp_path / name)
    configure(tmp_path, made)
    return tmp_path


def configure(folder: Path, made: Path, **changes: Any) -> None:
    config = {
        "log": str(folder / "log"),
        "recipe": str(made / "recipe.yaml"),
        "registry": str(folder / "registry"),
        "work": str(folder / "work"),
        "verify": {"share": 0.0},
        "compare": {"margins": {"pctr": 0.2}, "newest_h": 48, "min_impressions": 100},
        "publish": {"role": "canary", "percent": 10},
    }
    (folder / "nightly.yaml").write_text(yaml.safe_dump(merged(config, changes)))


def run(folder: Path, *options: str, name: str = "n") -> tuple[int, dict[str, Any]]:
    """The exit code and the report of a run."""
    code = main(["nightly", str(folder / "nightly.yaml"), "--run", name, *options])
    name = f"{name}-control" if "--control" in options else name
    report: dict[str, Any] = json.loads((folder / "work" / name / "report.json").read_text())
    assert (folder / "work" / name / "report.md").read_text().startswith("# Nightly run n")
    return code, report


def versions(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "registry" / "tiny").iterdir())


def test_a_good_model_becomes_canary_once(folder: Path) -> None:
    code, report = run(folder)
    assert (code, report["outcome"]) == (0, "published")
    assert [step["name"] for step in report["steps"]] == STEPS
    rollout = read_rollout(folder / "registry")
    assert rollout.canary is not None
    assert (str(rollout.stable), str(rollout.canary), rollout.canary.percent) == ("tiny/1", "tiny/2", 10)
    manifest = Manifest.model_validate_json((folder / "registry" / "tiny" / "2" / "manifest.json").read_bytes())
    assert manifest.provenance["nightly"]["run"] == "n"
    assert manifest.provenance["nightly"]["compared_with"] == "tiny/1"
    # The comparison's impressions are the newest ones, and none of them was trained on.
    times = pq.read_table(folder / "work" / "n" / "data" / "impressions.parquet")["time_ms"].to_numpy()
    (compared,) = report["steps"][3]["result"]["tasks"]
    assert compared["impressions"] == int((times > times.max() - 48 * HOUR).sum())
    assert compared["low"] <= compared["gain"] <= compared["high"]
    # Again: nothing is done twice, also after the version became live.
    write_rollout(folder / "registry", Target(name="tiny", version="2"), "test")
    revision = read_rollout(folder / "registry").revision
    code, report = run(folder)
    assert (code, report["outcome"]) == (0, "published")
    assert all(step["skipped"] for step in report["steps"])
    assert (versions(folder), read_rollout(folder / "registry").revision) == (["1", "2"], revision)


@pytest.mark.slow  # it trains a night, and signs and declares by commands
def test_a_night_publishes_into_a_bucket(folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNNELRANK_REGISTRY_CACHE", str(folder / "cache"))
    with object_store() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        # The registry was uploaded as a folder.
        for path in (folder / "registry").rglob("[!.]*"):
            if path.is_file():
                bucket.objects[f"{PREFIX}{path.relative_to(folder / 'registry')}"] = path.read_bytes()
        configure(folder, made, registry=URI)
        code, report = run(folder)
        assert (code, report["outcome"]) == (0, "published")
        rollout = Rollout.model_validate_json(bucket.objects[f"{PREFIX}rollout.json"])
        assert (str(rollout.stable), str(rollout.canary)) == ("tiny/1", "tiny/2")
        # Other commands take the version's address.
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(pem)
        assert main(["sign", f"{URI}/tiny/2", "--key", str(folder / "key.pem")]) == 0
        manifest = bucket.objects[f"{PREFIX}tiny/2/manifest.json"]
        signature = bucket.objects[f"{PREFIX}tiny/2/manifest.{hashlib.sha256(manifest).hexdigest()}.sig"]
        key.public_key().verify(signature, manifest)
        (folder / "rules.yaml").write_text("candidate: [{name: margin, type: numeric}]\n")
        assert main(["declare", f"{URI}/tiny/2", str(folder / "rules.yaml"), "--registry", URI]) == 0
        declared = json.loads(bucket.objects[f"{PREFIX}tiny/3/manifest.json"])
        # The files are there once.
        assert declared["files"] == json.loads(manifest)["files"]


@pytest.mark.slow  # it trains two nights
def test_the_next_night_continues_the_run_of_the_live_version(folder: Path, tmp_path: Path) -> None:
    # The first night knows all but the last two days.
    newest = sorted((folder / "log" / "hours").iterdir())[-48:]
    for path in newest:
        path.rename(tmp_path / path.name)
    code, first = run(folder, name="n0")
    assert (code, first["outcome"]) == (0, "published")
    assert first["steps"][2]["result"]["cold"] == "tiny/1 names no nightly run with its checkpoint"
    write_rollout(folder / "registry", Target(name="tiny", version="2"), "test")
    for path in newest:
        (tmp_path / path.name).rename(path)
    # The second night continues its run on the hours that it was not trained on.
    code, second = run(folder)
    assert (code, second["outcome"]) == (0, "published")
    trained = second["steps"][2]["result"]
    weights = (folder / "work" / "n0" / "run" / "checkpoint.pt").read_bytes()
    start = {"run": "n0", "version": "tiny/2", "checkpoint_sha256": hashlib.sha256(weights).hexdigest()}
    assert trained["started_from"] == start
    provenance = Manifest.model_validate_json((folder / "registry" / "tiny" / "3" / "manifest.json").read_bytes())
    assert provenance.provenance["nightly"]["started_from"] == start
    assert provenance.provenance["started_from"]["checkpoint_sha256"] == start["checkpoint_sha256"]
    splits = [load_recipe(folder / "work" / name / "run" / "recipe.yaml").data.split for name in ("n0", "n")]
    assert splits[1].train[0] == splits[0].train[1]
    times = pq.read_table(folder / "work" / "n" / "data" / "impressions.parquet")["time_ms"].to_numpy() / 1000
    border, end = (time.timestamp() for time in splits[1].train)
    assert trained["rows"] == int(((times >= border) & (times < end)).sum()) > 0
    assert f"from n0 (tiny/2, checkpoint {start['checkpoint_sha256'][:12]})" in page(folder)
    # Again, after it became live, nothing is done twice; without the earlier run another night starts afresh.
    write_rollout(folder / "registry", Target(name="tiny", version="3"), "test")
    assert all(step["skipped"] for step in run(folder)[1]["steps"])
    config = read_config(folder / "nightly.yaml")
    joined = FinishedStep("join", "", 0, {})
    shutil.copytree(folder / "work" / "n", folder / "work" / "m")
    (folder / "work" / "m" / "steps" / "start.json").unlink()
    assert "was trained on all hours" in start_of(folder / "work" / "m", config, joined, False)["cold"]
    (folder / "work" / "n" / "run" / "checkpoint.pt").unlink()
    (folder / "work" / "m" / "steps" / "start.json").unlink()
    assert "has no checkpoint.pt" in start_of(folder / "work" / "m", config, joined, False)["cold"]


def page(folder: Path) -> str:
    return (folder / "work" / "n" / "report.md").read_text()


def test_a_model_of_shuffled_labels_is_refused(folder: Path) -> None:
    before = pq.read_table(folder / "log" / "hours").num_rows
    code, report = run(folder, "--control")
    assert (code, report["outcome"]) == (0, "control refused")
    assert [step["name"] for step in report["steps"]] == STEPS[:4]
    assert report["steps"][2]["result"]["cold"] == "the control must learn nothing"
    assert versions(folder) == ["1"]
    assert read_rollout(folder / "registry").canary is None
    assert pq.read_table(folder / "log" / "hours").num_rows == before


def test_a_worse_model_is_refused_and_nothing_is_published(
    folder: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(folder, made, **{"train.set": ["training.learning_rate=1e-9", "training.averaging=0.0"]})
    code, report = run(folder)
    assert (code, report["outcome"]) == (1, "refused")
    assert "cannot be told from chance" in report["reason"]
    assert "refused: pctr: auc" in capsys.readouterr().err
    assert versions(folder) == ["1"]


def test_the_margin_decides(folder: Path, made: Path) -> None:
    configure(folder, made, **{"compare.margins": {"pctr": 0.0}})
    code, report = run(folder)
    (compared,) = report["steps"][3]["result"]["tasks"]
    assert (code == 1) == (compared["low"] < 0)
    # The same run with another margin compares again, and trains nothing.
    configure(folder, made, **{"compare.margins": {"pctr": 0.9}})
    code, report = run(folder)
    assert (code, report["outcome"]) == (0, "published")
    assert [step["skipped"] for step in report["steps"]] == [True, True, True, False, False, False]


def test_skew_refuses_before_anything_is_trained(folder: Path, made: Path) -> None:
    # The log's scores are made up, so they are not those of tiny/1.
    configure(folder, made, **{"verify.share": 0.05})
    code, report = run(folder)
    assert (code, report["outcome"]) == (1, "refused")
    assert report["reason"].startswith("serving and training differ: ")
    assert report["last_step"] == "verify"
    # No step's result names a request or a user, because `forget-user` does not search them.
    assert {key for skew in report["steps"][2]["result"]["skews"].values() for key in skew} == {
        "name",
        "count",
        "first_ms",
    }
    # Older hours were verified in their own nights: a skew of last month does not refuse every night since.
    configure(folder, made, **{"verify.share": 1.0, "verify.newest_h": 1})
    _, newest = run(folder, name="newest")
    hour = sorted((folder / "log" / "hours").iterdir())[-1]
    rows = pq.read_metadata(hour / "exposures.parquet").num_rows
    assert newest["steps"][2]["result"]["exposures"] == rows


def test_without_a_live_version_the_model_is_exported_alone(folder: Path, made: Path) -> None:
    (folder / "registry" / "rollout.json").unlink()
    configure(folder, made, publish={"role": "shadow"})
    code, report = run(folder)
    assert (code, report["outcome"]) == (0, "exported")
    assert versions(folder) == ["1", "2"]
    assert not (folder / "registry" / "rollout.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare.newest_h": 1000}, "nothing is left to train on"),
        ({"compare.min_impressions": 10**6}, "compare.min_impressions asks for 1,000,000"),
        ({"compare.margins": {"pcvrr": 0.1}}, "no task 'pcvrr'; did you mean 'pcvr'"),
        ({"publish.line": "home"}, "no line 'home'"),
    ],
)
def test_a_step_that_fails_says_why(folder: Path, made: Path, changes: dict[str, Any], message: str) -> None:
    configure(folder, made, **changes)
    code, report = run(folder)
    assert (code, report["outcome"]) == (1, "failed")
    assert message in report["reason"]
    assert versions(folder) == ["1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  percent: 10", "nightly.yaml:"),
        ("  rolle: canary", "rolle"),
        ("registry: ftp://models", "a folder or one of s3://"),
    ],
)
def test_a_bad_configuration_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "nightly.yaml"
    registry = "" if line.startswith("registry") else "registry: g\n"
    path.write_text(
        f"log: l\nrecipe: r\n{registry}work: w\ncompare:\n  margins: {{pctr: 0.01}}\npublish:\n  role: shadow\n{line}"
    )
    with pytest.raises(RecipeError) as caught:
        read_config(path)
    assert message in str(caught.value)
    assert f"{path}:" in str(caught.value)


def test_two_processes_do_not_work_on_one_run(folder: Path) -> None:
    from loop.nightly.steps import only_run

    with only_run(folder / "work" / "n"):
        assert main(["nightly", str(folder / "nightly.yaml"), "--run", "n"]) == 1


def test_too_few_exposures_that_the_live_version_reads_are_refused(folder: Path) -> None:
    code, _ = run(folder)
    assert code == 0
    # Retention removes the newest hours between two starts, and the comparison has to be done again.
    for path in sorted((folder / "log" / "hours").glob("*/exposures.parquet"))[-40:]:
        path.unlink()
    (folder / "work" / "n" / "steps" / "compare.json").unlink()
    code, report = run(folder)
    assert (code, report["outcome"], report["last_step"]) == (1, "failed", "compare")
    assert "compare.min_coverage asks for 90%" in report["reason"]


def test_labels_that_are_all_alike_compare_nothing() -> None:
    count = 50
    names = [str(place) for place in range(count)]
    scores = {"pctr": np.linspace(0.1, 0.9, count)}
    times = np.zeros(count, dtype=np.int64)
    labels = {"click": np.zeros(count)}
    rows = ScoredRows(names, names, times, names, [], [], labels, scores)
    output = Output("pctr", PROBABILITY, ("click",))
    done = compare_task(rows, output, scores["pctr"], np.ones(count, dtype=bool), 0.1, "auc")
    assert done.refusal == "all 50 matured labels are alike, so nothing can be compared"


@pytest.mark.parametrize("metric", ["auc", "gauc", "log_loss"])
def test_scores_that_are_not_finite_are_refused(metric: PairedMetric) -> None:
    count = 200
    names = [str(place % 20) for place in range(count)]
    labels = np.tile([0.0, 1.0], count // 2)
    good = 0.2 + 0.6 * labels
    bad = np.where(np.arange(count) < 3, np.nan, good)
    times = np.zeros(count, dtype=np.int64)
    rows = ScoredRows(names, names, times, names, [], [], {"click": labels}, {"pctr": bad})
    done = compare_task(rows, Output("pctr", PROBABILITY, ("click",)), good, np.ones(count, dtype=bool), 0.1, metric)
    assert done.refusal == "3 of 200 scores of the new model are not finite"
    assert (done.new, done.low) == (None, None)


@pytest.mark.slow  # it starts a process with torch per step
def test_a_run_that_is_killed_in_every_step_publishes_once(folder: Path) -> None:
    """Each process is killed when a step's work is done and its result is not written yet."""
    program = f"""
import os, signal
from loop.nightly import steps
real, began = steps.write_whole, []
def write_whole(path, content):
    os.kill(os.getpid(), signal.SIGKILL) if path.stem == os.environ["KILL_IN"] else real(path, content)
steps.write_whole = write_whole
from funnelrank.main import main
main(["nightly", {str(folder / "nightly.yaml")!r}, "--run", "n"])
"""
    for step in STEPS:
        done = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"KILL_IN": step}, check=False, timeout=120
        )
        assert done.returncode == -signal.SIGKILL, step
    code, report = run(folder)
    assert (code, report["outcome"]) == (0, "published")
    assert [step["skipped"] for step in report["steps"]] == [True] * 5 + [False]
    assert versions(folder) == ["1", "2"]
    assert str(read_rollout(folder / "registry").canary) == "tiny/2"
