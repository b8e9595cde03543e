"""Writes the table of alerts in docs/operations.md, and the texts of the alarms, from deploy/prometheus/rules.yaml.

python -m tools.alerts
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
PAGE = ROOT / "docs" / "operations.md"
ALARMS = ROOT / "service" / "metrics" / "alarms.json"
DOWN = "FunnelrankDown"  # a service that is down says nothing about itself
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
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


def alarms(rules: dict[str, Any]) -> str:
    """What `GET /stats` says about each alert, as JSON by its name."""
    by_name = {
        rule["alert"]: {
            "severity": rule["labels"]["severity"],
            "for_s": seconds(rule.get("for", "0s")),
            "summary": rule["annotations"]["summary"],
            "action": rule["annotations"]["action"],
        }
        for rule in alerts(rules)
        if rule["alert"] != DOWN
    }
    return json.dumps(by_name, indent=1) + "\n"


def seconds(duration: str) -> int:
    """A duration of Prometheus with one unit, as `15m`."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def page_with(text: str, rows: str) -> str:
    """The page with its table replaced. Raises ValueError if the page has no place for it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no place for the alerts: {BEGIN.strip()} ... {END.strip()}")
    return before + begin + rows + end + after


if __name__ == "__main__":
    DOCUMENT = yaml.safe_load(RULES.read_text())
    PAGE.write_text(page_with(PAGE.read_text(), table(DOCUMENT)))
    ALARMS.write_text(alarms(DOCUMENT))
