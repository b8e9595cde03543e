"""Writes the table of alerts in docs/operations.md from deploy/prometheus/rules.yaml.

python -m tools.alerts
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
PAGE = ROOT / "docs" / "operations.md"
BEGIN = "<!-- alerts: written by `python -m tools.alerts` -->\n"
END = "<!-- end of alerts -->\n"


def alerts(rules: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The alert rules of a rule file, in order."""
    for group in rules["groups"]:
        yield from (rule for rule in group["rules"] if "alert" in rule)


def table(rules: dict[str, Any]) -> str:
    """The alerts as a Markdown table."""
    rows = ["| alert | fires on | means | do |", "|---|---|---|---|"]
    for rule in alerts(rules):
        condition = " ".join(rule["expr"].split()).replace("|", "\\|")
        lasting = f", for {rule['for']}" if "for" in rule else ""
        notes = rule["annotations"]
        name = f"{rule['alert']} ({rule['labels']['severity']})"
        rows.append(f"| {name} | `{condition}`{lasting} | {notes['summary']} | {notes['action']} |")
    return "\n".join(rows) + "\n"


def page_with(text: str, rows: str) -> str:
    """The page with its table replaced. Raises ValueError if the page has no place for it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no place for the alerts: {BEGIN.strip()} ... {END.strip()}")
    return before + begin + rows + end + after


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(), table(yaml.safe_load(RULES.read_text()))))
