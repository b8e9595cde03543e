"""Owns `run-sample`: the whole service on the sample in one command, with a Redis of its own where none is set."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from redis.exceptions import RedisError

from service.bundle.manifest import Manifest
from service.bundle.registry import folder_of
from service.bundle.verify import BundleRejected, read_manifest
from service.log import without_password
from service.rollout.rollout import RolloutUnreadable, read_rollout
from service.sample.embedded_redis import EmbeddedRedis, NoRedisServer
from service.settings import Settings, variable_of
from service.store.redis.clients import client
from service.store.redis.keys import SCHEMAS
from service.store.redis.load import LoadError, load_folder
from service.store.schemas import is_loaded

_START_SECONDS = 60
_ANSWER_LINES = 24


class SampleError(Exception):
    """Why the sample cannot be run."""


class _Stopped(Exception):  # noqa: N818 - what happened, not a mistake
    """SIGINT or SIGTERM came."""


def run_sample(sample: Path, settings: Settings, port: int) -> int:
    """Serve the sample until SIGINT or SIGTERM, then stop all that was started; the exit code."""
    if not sample.is_dir():
        raise SampleError(f"{sample} is not a folder; say where the sample is with --sample")
    environment = dict(os.environ) | {variable_of("port"): str(port)}
    registry = settings.registry if variable_of("registry") in os.environ else sample / "registry"
    environment[variable_of("registry")] = str(registry)
    fusion = sample / "fusion.yaml"
    if variable_of("registry") not in os.environ and variable_of("fusion_file") not in os.environ and fusion.exists():
        environment[variable_of("fusion_file")] = str(fusion)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with ExitStack() as started:
        try:
            redis_url = settings.redis_url.get_secret_value()
            if variable_of("redis_url") not in os.environ:
                redis_url = started.enter_context(EmbeddedRedis()).url
                _say(f"started Redis at {redis_url}")
            environment[variable_of("redis_url")] = redis_url
            _load(
                sample,
                read_manifest(folder_of(registry, read_rollout(registry).stable), settings.trusted_keys),
                redis_url,
            )
            service = subprocess.Popen([sys.executable, "-m", "service", "serve"], env=environment)
            started.callback(_end, service)
            _wait_until_ready(service, settings.host, port)
            _show(sample, settings.host, port)
            return service.wait()
        except _Stopped:
            return 0
        except (NoRedisServer, LoadError, BundleRejected, RolloutUnreadable) as error:
            raise SampleError(str(error)) from None
        except RedisError as error:
            raise SampleError(f"Redis: {without_password(str(error))}") from None


def _stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _load(sample: Path, manifest: Manifest, redis_url: str) -> None:
    """The sample's tables, unless this Redis holds rows of the model's schema already."""
    with client(redis_url, 10) as redis:
        document: Any = redis.hget(SCHEMAS, manifest.feature_schema.fingerprint)
        if document is not None and is_loaded(document):
            _say("Redis is loaded already")
            return
    load_folder(_tables(sample, manifest.name), manifest.feature_schema, redis_url, names=manifest.tables)


def _tables(sample: Path, model: str) -> Path:
    """The folder with the tables: `data`, or one that a model's name begins with (`kuairand` of `kuairand-mmoe`), or the only one."""
    folders = [p for p in sorted(sample.iterdir()) if p.is_dir() and any(p.glob("items.*"))]
    folders.sort(key=lambda p: (p.name != "data", not model.startswith(p.name)))
    if not folders:
        raise SampleError(f"{sample} has no folder with items.parquet or items.csv")
    return folders[0]


def _wait_until_ready(service: "subprocess.Popen[bytes]", host: str, port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    problem = "no answer"
    while time.monotonic() < end:
        if service.poll() is not None:
            raise SampleError(f"the service ended with exit code {service.returncode}; its log says why")
        try:
            with urllib.request.urlopen(f"{_url(host, port)}/readyz", timeout=2):  # nosec B310 # the URL is the one that we serve on
                return
        except urllib.error.HTTPError as error:
            problem = error.read().decode(errors="replace")
        except OSError as error:
            problem = str(error)
        time.sleep(0.1)
    raise SampleError(f"the service is not ready after {_START_SECONDS} s: {problem}")


def _url(host: str, port: int) -> str:
    everywhere = not host.strip("0.:")  # 0.0.0.0 and ::
    return f"http://{'127.0.0.1' if everywhere else host}:{port}"


def _show(sample: Path, host: str, port: int) -> None:
    """A curl line that works, and what it answers."""
    url = f"{_url(host, port)}/rank"
    _say(f"\nserving on {_url(host, port)} (docs at /docs); Ctrl-C stops everything\n")
    request = sample / "request.json"
    if not request.exists():
        return
    _say(f"curl -s {url} -H 'Content-Type: application/json' -d @{request}")
    call = urllib.request.Request(url, data=request.read_bytes(), headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=10) as answer:  # nosec B310 # the URL is the one that we serve on
            text = json.dumps(json.load(answer), indent=2)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
    lines = text.splitlines()
    _say("\n".join([*lines[:_ANSWER_LINES], *(["..."] if len(lines) > _ANSWER_LINES else [])]))


def _end(service: "subprocess.Popen[bytes]") -> None:
    if service.poll() is None:
        service.send_signal(signal.SIGTERM)
    try:
        service.wait(timeout=30)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
