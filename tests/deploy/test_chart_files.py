"""Tests the chart's files without Helm: versions, names of values, shared files."""

import json
from pathlib import Path

import yaml

from funnelrank import __version__
from service.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "funnelrank"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__


def test_the_schema_has_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() - {"global"} == VALUES.keys()
    for name, value in VALUES.items():
        listed = schema["properties"][name].get("properties")
        if isinstance(value, dict) and schema["properties"][name].get("additionalProperties") is False:
            assert listed.keys() == value.keys(), name


def test_the_settings_of_the_values_exist() -> None:
    assert VALUES["settings"].keys() <= Settings.model_fields.keys()


def test_rules_and_boards_are_links_to_the_files_of_the_other_folders() -> None:
    links = {path.name: path.resolve() for path in (CHART / "files").iterdir() if path.is_symlink()}
    boards = {path.name: path for path in (ROOT / "deploy" / "grafana").glob("*.json")}
    assert links == boards | {"rules.yaml": ROOT / "deploy" / "prometheus" / "rules.yaml"}
