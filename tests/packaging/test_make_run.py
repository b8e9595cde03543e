"""Tests `make run`.

In a tree without any environment it ranks the sample's videos, and one signal stops everything that it started.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from running_service import ROOM_IN_ENVIRONMENT

from service.sample.calls import call
from service.sample.embedded_redis import free_port

ROOT = Path(__file__).parents[2]
PARTS = ("Makefile", "requirements", "funnelrank", "features", "tables", "service", "sample")
# Pip downloads what is not in its cache.
LONGEST_S = 600


def copy_of_the_tree(folder: Path) -> Path:
    for part in PARTS:
        take = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        take(ROOT / part, folder / part)
    return folder


def wait_for_answer(url: str, request: dict[str, Any], process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Return the first answer to `request`, as soon as the port is open."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end and process.poll() is None:
        status, body = call("POST", url, request, timeout_s=5)
        if status == 200:
            answer: dict[str, Any] = body
            return answer
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def redis_port_in(log: Path) -> int:
    """The port of the Redis that `make run` said it started."""
    match = re.search(r"started Redis at redis://127\.0\.0\.1:(\d+)", log.read_text())
    assert match is not None, log.read_text()
    return int(match.group(1))


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def shown_answer() -> dict[str, Any]:
    """The answer in the README."""
    block = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    answer: dict[str, Any] = json.loads(block.group(1))
    return answer


def wait_for_shown_answer(url: str, log: Path) -> dict[str, Any]:
    """Return the answer to the sample's request once `make run` has printed it; the last one if it never is the
    README's. Its counters are at most a second old.
    """
    request = (ROOT / "sample" / "request.json").read_bytes()
    end = time.monotonic() + 60
    answer: dict[str, Any] = {}
    while time.monotonic() < end:
        if '"moved_by"' in log.read_text():
            _, answer = call("POST", url, request)
            answer |= {"request_id": "...", "page": "..."}
            if answer == shown_answer():
                break
        time.sleep(0.2)
    return answer


@pytest.mark.slow
def test_make_run_ranks_real_videos_and_stops_all_it_started(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path)
    port = free_port()
    log = tmp_path / "make.log"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "FUNNELRANK_"))
    }
    environment |= ROOM_IN_ENVIRONMENT
    videos = pyarrow.parquet.read_table(ROOT / "sample" / "kuairand" / "items.parquet", columns=["item_id"])[
        "item_id"
    ].to_pylist()[:50]
    users = pyarrow.parquet.read_table(ROOT / "sample" / "kuairand" / "users.parquet", columns=["user_id"])[
        "user_id"
    ].to_pylist()
    context = {"tab": 1, "hour": 20}
    request = {"user_id": str(users[0]), "candidates": [str(video) for video in videos], "context": context}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["make", "run", f"PORT={port}"], cwd=tree, env=environment, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}/rank"
        answer = wait_for_answer(url, request, process, log)
        shown = wait_for_shown_answer(url, log)
        _, of_item_page = call("POST", url, request | {"scene": "item_page", "top_k": 5})
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
    assert sorted(entry["item_id"] for entry in answer["ranking"]) == sorted(request["candidates"])
    assert answer["degraded"] == []
    assert shown == shown_answer(), "the README shows another answer"
    assert of_item_page["model"] == {
        "name": "kuairand-esmm-small",
        "version": "1",
        "role": "stable",
        "line": "item_page",
    }
    assert of_item_page["rules"]["name"] == "item_page" and of_item_page["degraded"] == []
    # Processes that are ending get a moment; a process that stays would hold this loop until the limit.
    end = time.monotonic() + 60
    while not group_is_empty(process.pid):
        assert time.monotonic() < end, "something that make run started is still there"
        time.sleep(0.1)
    assert not listens(redis_port_in(log)), "the embedded Redis is still there"
    printed = log.read_text()
    assert "\r" not in printed, "a bar was drawn into a log"
    for table in ("items", "users", "behaviours"):
        assert len(re.findall(rf"^{table}: 100% of [0-9,]+ rows$", printed, re.MULTILINE)) == 1
    assert f"serving kuairand-mmoe/3 on http://127.0.0.1:{port}" in printed
    assert "models lie in sample/registry, features in that Redis, in memory; Ctrl-C stops everything" in printed
    assert not (tree / ".venv" / "lib" / "python3.11" / "site-packages" / "torch").exists()
