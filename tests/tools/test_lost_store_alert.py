"""Tests one alert in a real Prometheus: it fires when a real Redis is stopped, and clears when it is back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hurried_alerts import fires, prometheus
from running_service import ROOT, serving, wait_until

from service.sample.embedded_redis import EmbeddedRedis

ALERT = "FunnelrankStoreUnavailable"
pytestmark = pytest.mark.tools


def load(tables: Path, registry: Path, redis_url: str) -> None:
    settings = {"FUNNELRANK_REGISTRY": str(registry), "FUNNELRANK_REDIS_URL": redis_url}
    command = [sys.executable, "-m", "funnelrank", "load", "--restart", str(tables)]
    subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True, capture_output=True, timeout=120)


def test_the_alert_of_a_stopped_redis_fires_and_clears(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    shutil.copytree(ROOT / "sample" / "registry", registry)
    # Users and items alone: the behaviours take the most time.
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("users", "items"):
        shutil.copy(ROOT / "sample" / "kuairand" / f"{name}.parquet", tables)
    with EmbeddedRedis() as redis:
        load(tables, registry, redis.url)
        fusion = ROOT / "sample" / "fusion.yaml"
        with (
            serving(tmp_path, registry, redis.url, fusion_file=fusion) as service,
            prometheus(tmp_path, service.url.removeprefix("http://"), ALERT) as address,
        ):

            def fires_in_traffic() -> bool:
                """Rank once, so that there is traffic, and ask Prometheus."""
                service.rank(["5239", "6831"])
                return fires(address, ALERT)

            assert not fires_in_traffic()
            redis.kill()
            wait_until(fires_in_traffic)
            redis.start()
            load(tables, registry, redis.url)
            wait_until(lambda: not fires_in_traffic())
