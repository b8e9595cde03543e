"""Serves the sample with a canary and callers' keys, for tests of the console and its screenshots."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fresh_http
from running_service import ROOT, Server, serving, wait_until
from synthetic_bundle import go_live

from features import FeatureSchema
from service.bundle.registry import folder_of
from service.callers.document import CallerRole, add_caller
from service.rollout.rollout import read_rollout
from service.sample.embedded_redis import EmbeddedRedis
from service.store.redis.loading.load import load_folder

SAMPLE = ROOT / "sample"
MODEL = "kuairand-mmoe"


@dataclass(frozen=True)
class Served:
    """A service with its keys by role, and the registry that it follows."""

    server: Server
    keys: dict[str, str]
    registry: Path

    @property
    def console(self) -> str:
        return f"{self.server.url}/console/"

    def headers(self, role: str = "operate") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"}

    def get(self, path: str) -> Any:
        return self.server.http.get(path, headers=self.headers()).json()

    def change(self, method: str, path: str, body: dict[str, Any]) -> Any:
        answer = self.server.http.request(method, path, json=body, headers=self.headers())
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rank(self, users: int, items: int = 40) -> None:
        """Rank for `users` users, each over a connection of its own, so that every worker ranks."""
        request = json.loads((SAMPLE / "request.json").read_text())
        candidates = request["candidates"][:items]
        for user in range(users):
            body = request | {"user_id": str(user), "candidates": candidates, "top_k": 10}
            answer = fresh_http.post(f"{self.server.url}/rank", json=body, headers=self.headers("read"))
            assert answer.status_code == 200, answer.text


@contextmanager
def sample_service(folder: Path, redis: EmbeddedRedis, **settings: Any) -> Iterator[Served]:
    """Two workers: version 2 is stable, 3 the canary of 30 %, 4 is published and not live. All three are copies of the
    sample's live version.
    """
    registry = folder / "registry"
    live = read_rollout(SAMPLE / "registry").stable
    for version in ("2", "3", "4"):
        copied = registry / MODEL / version
        shutil.copytree(folder_of(SAMPLE / "registry", live), copied)
        manifest = json.loads((copied / "manifest.json").read_text())
        (copied / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    go_live(registry, "2", MODEL)
    schema = FeatureSchema.model_validate(manifest["feature_schema"])
    load_folder(SAMPLE / "kuairand", schema, redis.url)
    keys = {role.value: add_caller(registry, role.value, role, None, "test") for role in CallerRole}
    options = {"workers": 2, "fusion_file": SAMPLE / "fusion.yaml", "fusion_overrides": True} | settings
    with serving(folder, registry, redis.url, **options) as server:
        served = Served(server, keys, registry)
        canary = {"name": MODEL, "version": "3", "percent": 30}
        change = {"canary": canary, "author": "ann", "reason": "the model of last night"}
        served.change("PUT", "/models/rollout", change)
        wait_until(lambda: roles_of(served, "canary") == ["3", "3"])
        yield served


def roles_of(served: Served, role: str) -> list[str | None]:
    """The version that each worker of the host has in a role of the default line."""
    return [worker[role]["version"] if worker[role] else None for worker in served.get("/models")["workers"]]
