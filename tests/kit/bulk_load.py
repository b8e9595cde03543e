"""Runs the bulk load in a process of its own, and reads what it has loaded, for tests."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import redis
from child_process import child

from features.layouts import Layouts
from service.store.redis.keys import behaviours_key

ROOT = Path(__file__).parents[2]


def contents_of(store: redis.Redis) -> dict[bytes, Any]:
    """All rows and behaviours, without the record of the registries that loaded them."""
    keys: Any = store.keys("fr:*:*")
    return {key: store.dump(key) for key in keys if not key.endswith(b":registries")}


def loading(
    tables: Path, registry: Path, redis_url: str, *more: str
) -> "AbstractContextManager[subprocess.Popen[str]]":
    """Run the load during a block."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FUNNELRANK_")} | {
        "FUNNELRANK_REDIS_URL": redis_url
    }
    command = [sys.executable, "-m", "service", "load", str(tables), "--registry", str(registry), *more]
    return child(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def items_of(store: redis.Redis, layouts: Layouts, user_id: str) -> list[int]:
    """The item keys of the stored behaviours, newest first."""
    assert layouts.behaviour is not None
    members: Any = store.zrevrange(behaviours_key(layouts.fingerprint, user_id), 0, -1)
    return [int(layouts.behaviour.rows(m[8:])["keys"][0][0]) for m in members]
