"""Tests `make demo` in a real browser: cards for the sample's users; the service gets impressions and clicks."""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from child_process import child, end
from running_service import ROOM_IN_ENVIRONMENT, ROOT, wait_until

from service.sample.calls import wait_until_ready
from service.sample.embedded_redis import free_port
from tools.demo import document_of


def test_every_candidate_has_a_card() -> None:
    document = document_of(ROOT / "sample", "http://127.0.0.1:8000")
    assert sorted(document["items"]) == sorted(document["candidates"])
    assert len(set(document["users"])) == 25
    video = document["items"]["5522"]
    assert re.fullmatch(r"\d+:\d\d", video["duration"])
    assert video["author"].isdigit() and video["music"].isdigit()


def metric(service: str, name: str) -> float:
    with urllib.request.urlopen(f"{service}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


@pytest.mark.tools
def test_the_page_ranks_and_reports_what_was_seen_and_clicked(tmp_path: Path, browser: Any) -> None:
    port = free_port()
    page_port = free_port()
    service = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tools.demo", "--port", str(port), "--page-port", str(page_port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNNELRANK_")}
    with (tmp_path / "log").open("wb") as log:
        program = child(command, cwd=ROOT, env=environment | ROOM_IN_ENVIRONMENT, stdout=log, stderr=log)
    with program as process:
        wait_until_ready(process, f"http://127.0.0.1:{page_port}/demo.json", 120)
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.goto(f"http://127.0.0.1:{page_port}/")
        page.locator("#cards li").first.wait_for()
        assert page.locator("#cards li").count() == 12
        assert "kuairand-mmoe 3" in page.locator("#model").inner_text()
        terms = page.locator("#cards li").first.locator("dt").all_inner_texts()
        assert terms == ["author", "tag", "duration", "music", "click"]
        first = page.locator("#cards li").evaluate_all("cards => cards.map(card => card.dataset.item)")

        # Another user's list differs.
        page.locator("#user").select_option(index=5)
        wait_until(
            lambda: page.locator("#cards li").evaluate_all("cards => cards.map(card => card.dataset.item)") != first
        )
        before = metric(service, "funnelrank_events_total")
        user = page.locator("#user").input_value()
        clicked = page.locator("#cards li").first.get_attribute("data-item")
        page.locator("#cards li button").first.click()
        wait_until(lambda: metric(service, "funnelrank_events_total") == before + 1)
        wait_until(lambda: metric(service, "funnelrank_impressions_total") >= 12)
        page.get_by_text("1 clicks").wait_for()
        page.close()
        assert faults == []
        with urllib.request.urlopen(f"{service}/store/users/{user}", timeout=10) as answer:
            assert clicked in json.dumps(json.load(answer))
        assert end(process) == 0, (tmp_path / "log").read_text()
