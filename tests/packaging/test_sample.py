"""Tests the files of the sample: both bundles share one schema, are small, and the events are those of the log."""

import json
from pathlib import Path

from features.layouts import Layouts
from service.bundle.loading import Bundle, load_bundle
from service.rollout.rollout import read_rollout
from service.rules.definition.document import DOCUMENT, read_rules
from tools.sample_events import events_of

SAMPLE = Path(__file__).parents[2] / "sample"
REGISTRY = SAMPLE / "registry"
FOLDERS = sorted(path for path in REGISTRY.glob("*/*") if path.is_dir())
MOST_BYTES = 3_000_000


def bundles() -> list[Bundle]:
    return [load_bundle(folder, 1, 64) for folder in FOLDERS]


def test_two_scenes_have_a_bundle_each_of_one_schema() -> None:
    rollout = read_rollout(REGISTRY)
    live = {str(rollout.stable), str(rollout.lines["item_page"].stable)}
    assert rollout.scenes == {"item_page": "item_page"}
    loaded = bundles()
    assert live == {bundle.label for bundle in loaded}
    first, second = (bundle.layouts for bundle in loaded)
    assert first.inputs_fingerprint == second.inputs_fingerprint, "one load serves both"


def test_the_files_of_the_bundles_are_small() -> None:
    assert sum(file.stat().st_size for folder in FOLDERS for file in folder.iterdir()) <= MOST_BYTES


def test_the_rules_are_those_of_the_file_and_read_a_counter_that_no_graph_reads() -> None:
    document = DOCUMENT.read(REGISTRY)
    assert document is not None
    assert document.rules == read_rules(SAMPLE / "rules.yaml").rules
    for bundle in bundles():
        assert "counter_numerics" not in bundle.inputs
        assert "fresh_click_rate" in Layouts.of(bundle.manifest.feature_schema).of_rules


def test_the_events_are_those_of_the_log_before_the_request() -> None:
    stored = json.loads((SAMPLE / "events.json").read_text())["events"]
    assert stored == events_of(SAMPLE)
    assert len(stored) > 50
