"""Serves the sample: loads its tables, starts the service, shows a request that works, and stops everything
together.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from redis.exceptions import RedisError

from service.addresses.registry_address import shown
from service.bundle.manifest import Manifest
from service.bundle.registry import folder_of
from service.bundle.verify import BundleRejected, read_manifest
from service.documents import bring_documents
from service.log import without_password
from service.objects.answers import ObjectStoreAway
from service.rollout.rollout import RolloutUnreadable, read_rollout
from service.sample.calls import NotReadyError, call, wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, NoRedisServer
from service.settings import Settings, variable_of
from service.store.redis.clients import client
from service.store.redis.keys import SCHEMAS
from service.store.redis.loading.load import LoadError, load_folder
from service.store.schemas import is_loaded

_START_SECONDS = 60
_ANSWER_LINES = 60


class SampleError(Exception):
    """The sample cannot be run; the message says why."""


class _Stopped(Exception):  # noqa: N818 - a state, not a mistake
    """SIGINT or SIGTERM arrived."""


def run_sample(sample: Path, settings: Settings, port: int) -> int:
    """Serve the sample until SIGINT or SIGTERM, then stop everything; return the exit code. Raises SampleError.

    Every setting of the environment applies. If the environment names no registry, fusion profiles or Redis, the
    sample's are used, with a Redis started here.
    """
    if not sample.is_dir():
        raise SampleError(f"{sample} is not a folder; say where the sample is with --sample")
    environment = _environment(sample, port)
    registry = Settings.from_environment(environment).registry
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with ExitStack() as started:
        try:
            # A Redis, and the sample's rows in it.
            redis_url = settings.redis_url.get_secret_value()
            storage = without_password(redis_url)
            if variable_of("redis_url") not in os.environ:
                redis_url = started.enter_context(EmbeddedRedis()).url
                storage = "that Redis, in memory"
                _say(f"started Redis at {redis_url}")
            environment[variable_of("redis_url")] = redis_url
            bring_documents(registry)
            live = read_manifest(folder_of(registry, read_rollout(registry).stable), settings.trusted_keys)
            loaded = _load(sample, live, redis_url)
            # The service in a process of its own, so that Ctrl-C ends it first and its Redis after it.
            service = subprocess.Popen([sys.executable, "-m", "funnelrank", "serve"], env=environment)
            started.callback(_end, service)
            url = _url(settings.host, port)
            wait_until_ready(service, f"{url}/readyz", _START_SECONDS)
            if loaded:
                _send_events(sample, url, settings)
            _say(
                f"\nserving {live.name}/{live.version} on {url} (docs at /docs); models lie in {shown(registry)}, "
                f"features in {storage}; Ctrl-C stops everything\n"
            )
            _show(sample, url)
            return service.wait()
        except _Stopped:
            return 0
        except (NoRedisServer, NotReadyError, LoadError, BundleRejected, RolloutUnreadable, ObjectStoreAway) as error:
            raise SampleError(str(error)) from None
        except RedisError as error:
            raise SampleError(f"Redis: {without_password(str(error))}") from None


def _environment(sample: Path, port: int) -> dict[str, str]:
    """Return this process's environment, with the sample's registry and fusion profiles if it names no registry."""
    environment = dict(os.environ) | {variable_of("port"): str(port)}
    if variable_of("registry") in environment:
        return environment
    environment[variable_of("registry")] = str(sample / "registry")
    fusion = sample / "fusion.yaml"
    if fusion.exists():
        environment.setdefault(variable_of("fusion_file"), str(fusion))
    return environment


def _stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _load(sample: Path, manifest: Manifest, redis_url: str) -> bool:
    """Load the sample's tables, unless this Redis has rows of the model's schema already. Return whether it did."""
    with client(redis_url, 10) as redis:
        document: Any = redis.hget(SCHEMAS, manifest.feature_schema.fingerprint)
        if document is not None and is_loaded(document):
            _say("Redis is loaded already")
            return False
    load_folder(_tables(sample, manifest.name), manifest.feature_schema, redis_url, names=manifest.tables)
    return True


def _tables(sample: Path, model: str) -> Path:
    """Return the folder with the tables: `data`, else `kuairand` for the model `kuairand-mmoe`, else the first one.

    Raises SampleError if there is none.
    """
    folders = [p for p in sorted(sample.iterdir()) if p.is_dir() and any(p.glob("items.*"))]
    folders.sort(key=lambda p: (p.name != "data", not model.startswith(p.name)))
    if not folders:
        raise SampleError(f"{sample} has no folder with items.parquet or items.csv")
    return folders[0]


def _url(host: str, port: int) -> str:
    everywhere = not host.strip("0.:")  # 0.0.0.0 and ::
    return f"http://{'127.0.0.1' if everywhere else host}:{port}"


def _send_events(sample: Path, url: str, settings: Settings) -> None:
    """Send the events of the sample, if it has any, so that its counters have numbers."""
    events = sample / "events.json"
    if not events.exists():
        return
    token = settings.admin_token.get_secret_value() or None
    status, answer = call("POST", f"{url}/events", events.read_bytes(), token)
    if status == 200:
        _say(f"counted {answer['accepted']} events of {events}")
    else:
        _say(f"{events} was not counted: {answer}")


def _show(sample: Path, url: str) -> None:
    """Print a curl line that works, and the first lines of its answer."""
    request = sample / "request.json"
    if not request.exists():
        return
    _say(f"curl -s {url}/rank -H 'Content-Type: application/json' -d @{request}")
    _, answer = call("POST", f"{url}/rank", request.read_bytes())
    lines = json.dumps(answer, indent=2).splitlines()
    if len(lines) > _ANSWER_LINES:
        lines = [*lines[:_ANSWER_LINES], "..."]
    _say("\n".join(lines))


def _end(service: "subprocess.Popen[bytes]") -> None:
    """Stop the service; kill it if it takes longer than 30 seconds."""
    if service.poll() is None:
        service.send_signal(signal.SIGTERM)
    try:
        service.wait(timeout=30)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
