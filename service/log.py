"""Writes the log: one JSON object per line on stderr, without secrets."""

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

# The trace of the request in whose task a line is logged; empty outside of one.
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")
# Up to the last @ of a word, because an unquoted password may contain / and @.
_PASSWORD = re.compile(r"\b(\w{1,24}://)[^\s\"']*@|([?&]\w{0,24}password=)[^&\s\"']+")


def without_password(text: str) -> str:
    """Return a text in which user and password of every URL are hidden."""
    return _PASSWORD.sub(_hidden, text)


def _hidden(url: re.Match[str]) -> str:
    return f"{url[1]}***@" if url[1] else f"{url[2]}***"


class JsonLines(logging.Formatter):
    """Time, level, logger, process, message, the `trace_id` of a request, the fields of `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": without_password(record.getMessage()),
        }
        trace_id = TRACE_ID.get()
        if trace_id:
            line["trace_id"] = trace_id
        fields: dict[str, Any] = getattr(record, "fields", {})
        for name, value in fields.items():
            line[name] = without_password(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = without_password(self.formatException(record.exc_info))
        # In ASCII, so that no character of a path or a name breaks the line or the terminal.
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send every log line, those of uvicorn included, to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # A line per request would cost more than the request; metrics count requests.
        logger.propagate = name != "uvicorn.access"
