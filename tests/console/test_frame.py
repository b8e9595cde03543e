"""Tests what all pages share, in a browser: keys and roles, a lost connection, keyboard, accessibility, sub-path."""

import re
from pathlib import Path
from typing import Any

import pytest
from running_service import wait_until

from service.callers.document import CallerRole, add_caller, revoke
from tests.console.pages import Console
from tests.console.served import Served

pytestmark = pytest.mark.tools
PAGES = ("now", "versions", "try", "weights", "store", "quality")
SERIOUS = ("serious", "critical")


def test_a_reader_may_look_and_not_change(console: Console) -> None:
    console.open("versions", role="read")
    console.wait_for_text("use a key with the role operate")
    assert console.page.get_by_role("button", name="Make it live").count() == 0


def test_a_wrong_and_a_revoked_key_say_what_to_do(console: Console, served: Served) -> None:
    console.page.goto(served.console)
    console.wait_for_text("This service needs a key.")
    console.enter_key("fr_wrong")
    console.wait_for_text("The key is not valid")
    key = add_caller(served.registry, "guest", CallerRole.READ, None, "test")
    console.enter_key(key)
    console.page.get_by_role("link", name="Versions").click()
    console.page.get_by_role("heading", name="Live", exact=True).wait_for()
    revoke(served.registry, "guest", None, "test")
    console.wait_for_text("was revoked")
    assert console.page.get_by_role("heading", name="Live", exact=True).count() == 0
    # Another key brings the page back.
    console.enter_key(served.keys["read"])
    console.page.get_by_role("heading", name="Live", exact=True).wait_for()


def test_the_key_is_kept_for_the_tab_alone(console: Console, served: Served) -> None:
    console.open("versions")
    console.page.reload()
    console.wait_for_text("may look and change")
    assert console.page.context.cookies() == []
    assert console.page.evaluate("localStorage.length") == 0
    other = console.page.context.new_page()
    other.goto(served.console)
    other.get_by_text("This service needs a key.").wait_for()
    console.page.get_by_role("button", name="Forget the key").click()
    console.wait_for_text("This service needs a key.")


def test_a_lost_connection_is_told_and_comes_back(console: Console, served: Served) -> None:
    console.open("versions")
    console.page.get_by_role("heading", name="Live", exact=True).wait_for()
    console.page.context.set_offline(True)
    console.wait_for_text("No answer from the service since")
    assert console.page.get_by_role("heading", name="Live", exact=True).count() == 1, "what was read stays"
    served.change("PUT", "/models/rollout", {"shadow": None, "limits": {"psi": 0.9}, "reason": "while it was away"})
    console.page.context.set_offline(False)
    console.wait_for_text("while it was away")
    assert console.page.get_by_text("No answer from the service").count() == 0


def test_a_page_in_the_background_asks_nothing(console: Console) -> None:
    console.open("versions")
    console.page.get_by_role("heading", name="Live", exact=True).wait_for()
    asked: list[str] = []
    console.page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    console.page.wait_for_timeout(500)
    console.page.on("request", lambda request: asked.append(request.url))
    console.page.wait_for_timeout(2500)
    assert asked == []
    console.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    wait_until(lambda: (console.page.wait_for_timeout(50), len(asked) > 0)[1])


def test_every_page_works_with_the_keyboard_alone(console: Console) -> None:
    console.open("versions")
    console.page.reload()
    console.page.get_by_label("Change", exact=True).wait_for()
    keyboard = console.page.keyboard
    keyboard.press("Tab")
    assert console.page.evaluate("document.activeElement.textContent").strip() == "To the content"
    keyboard.press("Enter")
    assert console.page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(12):
        keyboard.press("Tab")
        reached.append(
            console.page.evaluate("document.activeElement.closest('button, input, select, a, [tabindex]').tagName")
        )
    assert {"SELECT", "INPUT", "BUTTON"} <= set(reached)


@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_serious(console: Console, source: Path, page: str) -> None:
    if page == "try":
        console.open_ranking()
        console.page.get_by_role("table", name=re.compile("Ranking of")).wait_for()
    else:
        console.open(page)
    console.page.wait_for_load_state("networkidle")
    console.page.evaluate((source / "node_modules" / "axe-core" / "axe.min.js").read_text())
    for scheme in ("light", "dark"):
        console.page.emulate_media(color_scheme=scheme)
        violations = console.page.evaluate("axe.run().then(result => result.violations)")
        serious = [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in SERIOUS]
        assert serious == [], scheme


def test_it_works_under_a_sub_path(browser: Any, served: Served) -> None:
    """A proxy takes a prefix away, as an ingress does."""
    context = browser.new_context()
    page = context.new_page()
    prefix = "http://proxy.example/ranking"

    def forward(route: Any) -> None:
        path = route.request.url.removeprefix(prefix)
        route.fulfill(response=route.fetch(url=f"{served.server.url}{path}"))

    page.route(f"{prefix}/**", forward)
    page.goto(f"{prefix}/console/#/versions")
    page.get_by_label("Key (kept until this tab is closed)").fill(served.keys["read"])
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("heading", name="Live", exact=True).wait_for()
    context.close()
