"""Makes the pictures of the console that the docs show: `python tests/console/screenshots.py [FOLDER]`.

It serves the sample with a canary, ranks for some users, and drives Debian's chromium. `make test-tools` installs both.
The pictures have 128 colours, so that each is small enough for the README.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kit")]

from PIL import Image  # noqa: E402 - the paths above come first
from running_service import wait_until  # noqa: E402 - the paths above come first

from service.sample.embedded_redis import EmbeddedRedis  # noqa: E402
from tests.console.pages import REQUEST, Console  # noqa: E402
from tests.console.served import MODEL, roles_of, sample_service  # noqa: E402

DEFAULT_FOLDER = ROOT / "docs" / "images"
USERS = 150
SIZE = {"width": 1320, "height": 900}
CURVES_MS = 16_000
_COLOURS = 128


def main(folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, EmbeddedRedis() as redis, sample_service(Path(work), redis) as served:
        served.rank(USERS)
        # Now there are recent requests, on which the gate compares the next canary with the stable version.
        canary = {"name": MODEL, "version": "4", "percent": 20}
        served.change("PUT", "/models/rollout", {"canary": canary, "author": "ann", "reason": "trained last night"})
        wait_until(lambda: roles_of(served, "canary") == ["4", "4"])
        served.rank(USERS)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            context = browser.new_context(viewport=SIZE, color_scheme="light")
            _take(Console(context.new_page(), served), folder)
            browser.close()


def _take(console: Console, folder: Path) -> None:
    page: Any = console.page
    console.open("versions")
    console.table("Versions of the line default")
    page.get_by_label("Change", exact=True).select_option("promote")
    _save(page, folder / "console-versions.png")
    page.get_by_role("link", name="Now").click()
    page.wait_for_timeout(CURVES_MS)
    _save(page, folder / "console-now.png")
    page.close()
    console.page = page = page.context.new_page()
    console.open_ranking()
    page.get_by_label("Compare with the profile").select_option("default")
    console.wait_for_text("profile default, revision")
    page.get_by_role("button", name=REQUEST["candidates"][3], exact=True).click()
    page.get_by_role("heading", name="What ranks", exact=True).evaluate("heading => heading.scrollIntoView()")
    _save(page, folder / "console-try.png")
    page.get_by_role("link", name="Weights and rules").click()
    page.get_by_label("Weight of pctr", exact=True).fill("30")
    page.get_by_role("status").filter(has_text="Valid.").wait_for()
    _save(page, folder / "console-weights.png")


def _save(page: Any, path: Path) -> None:
    """Save what the browser shows as a PNG with a palette."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
