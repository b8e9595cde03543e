"""Owns the log: one JSON object per line on stderr, with no secret in it."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

# Up to the last @ of a word, since a password may hold / and @ where somebody forgot to quote them.
_PASSWORD = re.compile(r"\b(\w{1,24}://)[^\s\"']*@|([?&]\w{0,24}password=)[^&\s\"']+")


def without_password(text: str) -> str:
    """A URL, or a text with URLs, whose user and password are hidden."""
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


class JsonLines(logging.Formatter):
    """Time, level, logger and message, and whatever was handed in as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": without_password(record.getMessage()),
        }
        fields: dict[str, Any] = getattr(record, "fields", {})
        line |= {name: without_password(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info:
            line["traceback"] = without_password(self.formatException(record.exc_info))
        return json.dumps(
            line, default=str
        )  # in ASCII, so that no character of a path or a name can break the line or the terminal


def configure(level: str) -> None:
    """Send everything, uvicorn's own lines included, to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = (
            name != "uvicorn.access"
        )  # a line per request costs more than the request; metrics count them
