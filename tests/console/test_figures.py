"""Tests the pages that show figures in a browser: store, quality."""

import pytest

from tests.console.pages import REQUEST, Console

pytestmark = pytest.mark.tools


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
