"""Reports a nightly run: report.json for programs and report.md for people."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from features.files.writing import write_whole
from loop.nightly.steps import FinishedStep

JSON_FILE = "report.json"
PAGE_FILE = "report.md"


class NightlyOutcome(StrEnum):
    """How a run ended."""

    PUBLISHED = "published"
    EXPORTED = "exported"  # no version is live yet
    REFUSED = "refused"
    CONTROL_REFUSED = "control refused"
    CONTROL_PASSED = "control passed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_success(self) -> bool:
        return self in (NightlyOutcome.PUBLISHED, NightlyOutcome.EXPORTED, NightlyOutcome.CONTROL_REFUSED)


@dataclass
class NightlyReport:
    """A run: its finished steps, its outcome with the reason, and the step that was begun last."""

    name: str
    control: bool
    steps: list[FinishedStep] = field(default_factory=list)
    outcome: NightlyOutcome | None = None
    reason: str = ""
    last_step: str = ""

    def begin(self, step: str) -> None:
        self.last_step = step

    def end(self, outcome: NightlyOutcome, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason

    def result(self, step: str) -> dict[str, Any]:
        """The result of a finished step; empty if it was not reached."""
        return next((dict(each.result) for each in self.steps if each.name == step), {})

    def write(self, folder: Path) -> None:
        """Write both files; each is replaced whole."""
        write_whole(folder / JSON_FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())
        write_whole(folder / PAGE_FILE, ("\n".join(lines(self)) + "\n").encode())


def lines(report: NightlyReport) -> list[str]:
    """The report as Markdown."""
    title = f"# Nightly run {report.name}" + (" (control: shuffled labels)" if report.control else "")
    text = [title, "", f"**{report.outcome}**: {report.reason}", ""]
    if report.outcome in (NightlyOutcome.FAILED, NightlyOutcome.INTERRUPTED):
        text += [f"Ended in the step `{report.last_step}`.", ""]
    # The steps.
    text += ["| step | seconds | result |", "|---|---|---|"]
    for step in report.steps:
        seconds = "done before" if step.skipped else f"{step.seconds:.1f}"
        text.append(f"| {step.name} | {seconds} | {_summary(step)} |")
    # The comparison.
    compared = report.result("compare")
    if compared:
        text += ["", f"Compared with {compared['live']} on {compared['impressions']:,} impressions:", ""]
        text += [
            "| task | metric | live | new | gain | 95 % | margin | positives | |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        text += [_compared(task) for task in compared["tasks"]]
    return text


def _summary(step: FinishedStep) -> str:
    result = step.result
    if step.name == "compact":
        records = ", ".join(f"{count:,} {kind}" for kind, count in result["records"].items())
        return f"{result['files']} files: {records}; {result['in_use']} in use; {len(result['faulty'])} faulty"
    if step.name == "join":
        rate = "no event" if result["join_rate"] is None else f"join rate {result['join_rate']:.2%}"
        return f"{result['rows']['impressions']:,} labelled impressions, {rate}; test {result['parts']['test']}"
    if step.name == "verify":
        return f"{result['exposures']:,} exposures, {len(result['skews'])} differences"
    if step.name == "train":
        start = f"a cold start ({result['cold']})"
        if result["started_from"]:
            start = "{run} ({version}, checkpoint {checkpoint_sha256:.12})".format_map(result["started_from"])
        return f"{result['rows']:,} rows, from {start}, data {result['data']}, {len(result['warnings'])} warnings"
    if step.name == "compare":
        return f"{len(result['refusals'])} refusals"
    if step.name == "export":
        return f"{result['target']['name']}/{result['target']['version']}"
    replaced = f", replaces {result['replaced']}" if result["replaced"] else ""
    return f"{result['role']}, revision {result['revision']}{replaced}"


def _compared(task: dict[str, Any]) -> str:
    interval = "" if task["low"] is None else f"[{task['low']:+.4f}, {task['high']:+.4f}]"
    cells = [task["task"], task["metric"], _number(task["live"]), _number(task["new"]), _number(task["gain"], "+.4f")]
    cells += [interval, f"{task['margin']:g}", f"{task['positives']:,} of {task['impressions']:,}", task["refusal"]]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)
