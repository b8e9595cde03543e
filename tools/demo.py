"""Runs the sample's service and a small front end for it: `python -m tools.demo --port 8000 --page-port 8080`.

The page (sample/demo) calls the service from another origin with the TypeScript client, as a real front end would.
"""

import argparse
import json
import os
import sys
import threading
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.sample.calls import NotReadyError, wait_until_ready
from service.settings import variable_of
from tools.processes import ROOT, Stopped, is_taken, start, stop_at_signals

SAMPLE = ROOT / "sample"
# Where the page's files lie, by the first part of their address.
FOLDERS = {"": SAMPLE / "demo", "client": ROOT / "clients" / "typescript" / "dist"}
DATA = "/demo.json"
_USERS = 24
_START_S = 120


class DemoError(Exception):
    """It cannot be run; the message says why."""


class PageHandler(SimpleHTTPRequestHandler):
    """Gives out the page, the client and the data; nothing else of the tree."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

    def __init__(self, *arguments: Any, document: bytes, service: str, **options: Any) -> None:
        self.document = document
        self.service = service
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        if self.path != DATA:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.document)))
        self.end_headers()
        self.wfile.write(self.document)

    def translate_path(self, path: str) -> str:
        parts = [part for part in path.partition("?")[0].split("/") if part not in ("", ".", "..")]
        folder = FOLDERS["client" if parts[:1] == ["client"] else ""]
        return str(folder / parts[-1]) if parts else str(folder / "index.html")

    def end_headers(self) -> None:
        self.send_header(
            "Content-Security-Policy", f"default-src 'self'; img-src data:; connect-src 'self' {self.service}"
        )
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal shows the service's log."""


def document_of(sample: Path, service: str) -> dict[str, Any]:
    """Return what the page reads: the service's address, some users, candidates, and what the cards show of each."""
    request = json.loads((sample / "request.json").read_text())
    columns = ["item_id", "author_id", "tag", "video_duration", "music_id"]
    items = pq.read_table(sample / "kuairand" / "items.parquet", columns=columns)
    candidates = [int(item) for item in request["candidates"]]
    rows = items.filter(pc.field("item_id").isin(candidates)).to_pylist()
    users = pq.read_table(sample / "kuairand" / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
    others = [str(user) for user in users[:: len(users) // _USERS]]
    return {
        "service": service,
        "users": [request["user_id"], *others[:_USERS]],
        "candidates": request["candidates"],
        "items": {str(row["item_id"]): _card(row) for row in rows},
    }


def _card(row: dict[str, Any]) -> dict[str, Any]:
    seconds = round((row["video_duration"] or 0) / 1000)
    return {
        "author": str(row["author_id"]),
        "tags": [str(tag) for tag in row["tag"] or []],
        "duration": f"{seconds // 60}:{seconds % 60:02}",
        "music": str(row["music_id"]),
    }


def demo(port: int, page_port: int) -> None:
    """Run the service and the page until SIGINT or SIGTERM. Raises DemoError."""
    for number in (port, page_port):
        if is_taken(number):
            raise DemoError(f"the port {number} is in use; choose another with --port or --page-port")
    service = f"http://127.0.0.1:{port}"
    page = f"http://127.0.0.1:{page_port}"
    with ExitStack() as started:
        try:
            # The service, which lets pages of this origin call it.
            environment = os.environ | {variable_of("cors_origins"): page}
            sample = [sys.executable, "-m", "funnelrank", "run-sample", "--sample", "sample", "--port", str(port)]
            process = start(started, sample, environment=environment)
            wait_until_ready(process, f"{service}/readyz", _START_S)

            # The page, from a thread of this process.
            document = json.dumps(document_of(SAMPLE, service)).encode()
            handler = partial(PageHandler, document=document, service=service)
            server = started.enter_context(ThreadingHTTPServer(("127.0.0.1", page_port), handler))
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            started.callback(thread.join)
            started.callback(server.shutdown)
            sys.stdout.write(f"\nthe page is at {page}; Ctrl-C stops everything\n\n")
            sys.stdout.flush()
            if process.wait():
                raise DemoError(f"the service ended with exit code {process.returncode}")
        except Stopped:
            return
        except NotReadyError as error:
            raise DemoError(str(error)) from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Run the sample's service with a small front end that ranks, shows cards and reports clicks.",
        epilog="example: python -m tools.demo --port 9000 --page-port 9001",
    )
    parser.add_argument("--port", type=int, default=8000, help="of the service (8000)")
    parser.add_argument("--page-port", type=int, default=8080, help="of the page (8080)")
    options = parser.parse_args(arguments)
    stop_at_signals()
    try:
        demo(options.port, options.page_port)
    except DemoError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
