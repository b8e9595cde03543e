"""Tests the pages that show figures in a browser: now, store, quality."""

import re

import pytest
from running_service import wait_until

from tests.console.pages import REQUEST, Console, counted
from tests.console.served import Served

pytestmark = pytest.mark.tools
SINCE_START = "Counters since the start of the service"


def test_now_shows_the_counters_of_the_metrics_with_window_and_number(console: Console, served: Served) -> None:
    served.rank(users=6)
    console.open("now", window="3600")

    def agree() -> bool:
        metrics = served.server.http.get("/metrics").text
        shown = console.column(SINCE_START, "n")
        n = counted(metrics, "funnelrank_rankings_total")
        assert n > 0
        return int(shown["rankings"].replace(",", "")) == n

    wait_until(agree)
    rows = {row[0]: row for row in console.table("Latency of /rank and of its stages")[1:]}
    assert {"whole request", "store", "assemble", "score", "fuse", "respond"} <= set(rows)
    assert int(rows["score"][1].replace(",", "")) > 0
    for section in ("Traffic", "Latency by stage", "Versions", "Degraded"):
        about = console.page.get_by_role("region", name=section, exact=True).locator(".about").first.inner_text()
        assert re.search(r"Over the last .+; n = \d", about), section
    alarms = console.page.get_by_role("region", name=re.compile("alarm")).locator(".about").inner_text()
    assert re.fullmatch(r"\d+ conditions of the alert rules, .*which reach back [\d.]+ (s|min|h|d)\.", alarms)
    console.wait_for_text("2 of 2")
    console.page.get_by_role("img", name=re.compile("Rankings per second")).wait_for()


def test_the_store_shows_an_item_and_a_user(console: Console) -> None:
    console.open("store")
    console.page.get_by_label("What").select_option("items")
    console.page.get_by_label("Id", exact=True).fill(REQUEST["candidates"][0])
    console.page.get_by_role("button", name="Look up").click()
    assert "video_duration" in console.column("Features", "Value")
    console.page.get_by_label("What").select_option("users")
    console.page.get_by_label("Id", exact=True).fill("nobody")
    console.page.get_by_role("button", name="Look up").click()
    console.page.get_by_role("heading", name="User nobody in the store").wait_for()
    console.wait_for_text("nobody")


def test_without_a_quality_report_the_page_says_how_to_make_one(console: Console) -> None:
    console.open("quality")
    console.wait_for_text("funnelrank quality")
