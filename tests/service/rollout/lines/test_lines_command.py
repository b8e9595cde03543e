"""Tests `funnelrank rollout` with lines: begin one, change it, roll it back, end it."""

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_bundle import publish

from funnelrank.main import main
from service.rollout.rollout import read_rollout


@pytest.fixture
def versions(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with version 1 live, and versions 2 and 3."""
    for name in ("FUNNELRANK_FUSION_FILE", "FUNNELRANK_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    for version in ("2", "3"):
        publish(registry, version)
    return registry


def command(registry: Path, *arguments: str) -> int:
    return main(["rollout", *arguments, "--registry", str(registry)])


def shown(registry: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert command(registry) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_line_begins_changes_goes_back_and_ends(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = ("--scene", "detail", "--scene", "related")
    assert command(versions, "--line", "item_page", "synthetic", "2", *scenes) == 0
    document = shown(versions, capsys)
    assert document["stable"]["version"] == "1"
    assert document["lines"]["item_page"]["stable"] == {"name": "synthetic", "version": "2"}
    assert document["scenes"] == {"detail": "item_page", "related": "item_page"}
    # Change its canary and its stable version, and go back.
    canary = ("--canary", "synthetic/3", "--percent", "5")
    assert command(versions, "--line", "item_page", *canary) == 0
    assert shown(versions, capsys)["lines"]["item_page"]["canary"] == {
        "name": "synthetic",
        "version": "3",
        "percent": 5.0,
    }
    assert command(versions, "--line", "item_page", "--percent", "20") == 0
    assert shown(versions, capsys)["lines"]["item_page"]["canary"]["percent"] == 20.0
    assert command(versions, "--line", "item_page", "synthetic", "3") == 0
    assert command(versions, "--line", "item_page", "--rollback") == 0
    document = shown(versions, capsys)
    assert document["lines"]["item_page"]["stable"]["version"] == "2"
    assert document["stable"]["version"] == "1" and document["canary"] is None
    # The history names the line's version in each entry.
    assert command(versions, "--history") == 0
    assert capsys.readouterr().out.count("item_page: synthetic/3") == 1
    # End it: its scenes use the default line.
    assert command(versions, "--line", "item_page", "--end-line") == 0
    document = shown(versions, capsys)
    assert "lines" not in document and "scenes" not in document


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--end-line",), 2, "--end-line goes with --line"),
        (("--line", "item_page", "--end-line"), 1, "there is no line 'item_page'"),
        (("--line", "item_page", "--canary", "none"), 1, "there is no line 'item_page'"),
        (("--line", "item_page", "--rollback"), 1, "there is no line 'item_page', and the history has none"),
        (("--line", "item_page", "synthetic", "9"), 1, "synthetic/9"),
        (("--line", "item page", "synthetic", "2"), 1, "line"),
    ],
)
def test_a_change_of_lines_that_cannot_be_made_changes_nothing(
    versions: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = read_rollout(versions)
    assert command(versions, *arguments) == code
    assert message in capsys.readouterr().err
    assert read_rollout(versions) == before


def test_a_scene_that_no_fusion_profile_names_is_a_warning(
    versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profiles = tmp_path / "fusion.yaml"
    profiles.write_text(
        "revision: 1\nprofiles: {default: {kind: weighted_sum, weights: {pctr: 1}}}\nscenes: {detail: default}\n"
    )
    monkeypatch.setenv("FUNNELRANK_FUSION_FILE", str(profiles))
    assert command(versions, "--line", "item_page", "synthetic", "2", "--scene", "detial") == 0
    assert "detial" in capsys.readouterr().err
