"""Opens the console in a browser, reads its tables, and fills in its forms."""

import json
import re
from typing import Any
from urllib.parse import urlencode

from tests.console.served import SAMPLE, Served

REQUEST = json.loads((SAMPLE / "request.json").read_text())
PATIENT_MS = 30_000


class Console:
    """One tab with the console of a service. `faults` lists what a page must not do."""

    def __init__(self, page: Any, served: Served) -> None:
        self.page = page
        self.served = served
        self.faults: list[str] = []
        page.set_default_timeout(PATIENT_MS)
        page.on("pageerror", lambda error: self.faults.append(f"raised: {error}"))
        page.on("console", self._check_message)
        page.on("request", self._check_request)

    def _check_message(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "Refused to" in message.text:
            self.faults.append(message.text)

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith(f"{self.served.server.url}/"):
            self.faults.append(f"asked {request.url}")

    def open(self, page: str, role: str = "operate", **query: str) -> None:
        """Open a page with the key of a role, as somebody who follows a link and enters the key."""
        self.page.goto(f"{self.served.console}#/{page}?{urlencode(query)}")
        self.enter_key(self.served.keys[role])
        self.page.get_by_text("Role: may look").wait_for()

    def enter_key(self, key: str) -> None:
        self.page.get_by_label("Key (kept until this tab is closed)").fill(key)
        self.page.get_by_role("button", name="Use this key").click()

    def open_ranking(self, **query: str) -> None:
        """Open the page that tries a ranking with the sample's request."""
        more = json.dumps({"context": REQUEST["context"], "timestamp": REQUEST["timestamp"]})
        request = {"user": REQUEST["user_id"], "items": " ".join(REQUEST["candidates"]), "scene": "home", "more": more}
        self.open("try", **(request | query))

    def table(self, caption: str | re.Pattern[str]) -> list[list[str]]:
        """The cells of the table with a caption, row by row, its head first."""
        table = self.page.get_by_role("table", name=caption)
        table.wait_for()
        read = "table => Array.from(table.rows, row => Array.from(row.cells, cell => cell.innerText.trim()))"
        cells: list[list[str]] = table.evaluate(read)
        return cells

    def column(self, caption: str | re.Pattern[str], head: str) -> dict[str, str]:
        """A column of a table, by the first cell of each row."""
        rows = self.table(caption)
        place = rows[0].index(head)
        return {row[0]: row[place] for row in rows[1:]}

    def sign(self, button: str, reason: str, author: str = "bob") -> None:
        """Sign a change and send it."""
        self.page.get_by_label("Your name").fill(author)
        self.page.get_by_label("Reason", exact=True).fill(reason)
        self.page.get_by_role("button", name=button, exact=True).click()

    def wait_for_text(self, text: str | re.Pattern[str]) -> None:
        self.page.get_by_text(text).first.wait_for()


def counted(samples: str, name: str, **labels: str) -> int:
    """The sum of a counter over the lines of /metrics that have these labels."""
    total = 0.0
    for line in samples.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return round(total)
