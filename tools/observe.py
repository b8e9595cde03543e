"""Runs the sample's service, its Redis, a little traffic and a Prometheus with the rules of deploy/prometheus.

python -m tools.observe --port 8000 --prometheus-port 9090
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from service.sample.calls import NotReadyError, call, wait_until_ready
from tools.processes import ROOT, Stopped, is_taken, start, stop_at_signals

RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
REQUEST = ROOT / "sample" / "request.json"
_START_S = 120


class ObserveError(Exception):
    """The sample or Prometheus cannot be run; the message says why."""


def observe(port: int, prometheus_port: int, rate: float, minutes: float) -> None:
    """Run everything until SIGINT or SIGTERM, or until `minutes` are over, then stop what was started.

    `rate` is in rankings per second, 0 for none. Raises ObserveError.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise ObserveError("prometheus is missing: install it with `sudo apt-get install prometheus`")
    for number in (port, prometheus_port):
        if is_taken(number):
            raise ObserveError(f"the port {number} is in use; choose another with --port or --prometheus-port")
    with ExitStack() as started:
        try:
            # The service, in a process that starts the Redis too.
            sample = [sys.executable, "-m", "funnelrank", "run-sample", "--sample", "sample", "--port", str(port)]
            service = start(started, sample)
            wait_until_ready(service, f"http://127.0.0.1:{port}/readyz", _START_S)

            # Prometheus, with its files in a folder that is removed at the end.
            folder = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="funnelrank-observe-")))
            prometheus = start(started, [program, *_options(folder, port, prometheus_port)], quiet=True)
            address = f"http://127.0.0.1:{prometheus_port}"
            wait_until_ready(prometheus, f"{address}/-/ready", _START_S, "Prometheus")
            _say(port, address, minutes)

            _send_traffic(
                {"the service": service, "Prometheus": prometheus}, port, rate, time.monotonic() + 60 * minutes
            )
        except Stopped:
            return
        except NotReadyError as error:
            raise ObserveError(str(error)) from None


def _options(folder: Path, port: int, prometheus_port: int) -> list[str]:
    """Write Prometheus' configuration, and return its options. Memory and disk are bounded."""
    document = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "funnelrank", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(document))  # JSON is YAML
    return [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--storage.tsdb.retention.time=6h",
        "--storage.tsdb.retention.size=512MB",
        f"--web.listen-address=127.0.0.1:{prometheus_port}",
    ]


def _say(port: int, prometheus: str, minutes: float) -> None:
    sys.stdout.write(
        f"\nservice     http://127.0.0.1:{port}\n"
        f"Prometheus  {prometheus}/graph, alerts at {prometheus}/alerts\n"
        f"boards      import deploy/grafana/*.json into a Grafana whose data source is {prometheus}\n"
        "An alert fires a minute after that Redis is stopped. `make loadtest` sends more load.\n"
        f"Ctrl-C stops everything; it ends by itself after {minutes:g} minutes.\n\n"
    )
    sys.stdout.flush()


def _send_traffic(processes: dict[str, "subprocess.Popen[bytes]"], port: int, rate: float, end: float) -> None:
    """Rank the sample's request for one user after another until `end`. Raises ObserveError if a process has ended."""
    request: dict[str, Any] = json.loads(REQUEST.read_text())
    number = 0
    while time.monotonic() < end:
        for name, process in processes.items():
            if process.poll() is not None:
                raise ObserveError(f"{name} ended with exit code {process.returncode}")
        if rate:
            # Failures are no fault here: the boards show them.
            call("POST", f"http://127.0.0.1:{port}/rank", request | {"user_id": str(number % 1000)})
            number += 1
        time.sleep(1 / rate if rate else 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Run the sample's service, its Redis, a little traffic, and Prometheus with the alert rules.",
        epilog="example: python -m tools.observe --port 9000 --prometheus-port 9091",
    )
    parser.add_argument("--port", type=int, default=8000, help="of the service (8000)")
    parser.add_argument("--prometheus-port", type=int, default=9090, help="of Prometheus (9090)")
    parser.add_argument("--rate", type=float, default=5.0, help="rankings per second; 0: none (5)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which it ends by itself (60)")
    options = parser.parse_args(arguments)
    if options.rate < 0 or options.rate > 1000:
        parser.error("--rate must be between 0 and 1000")
    stop_at_signals()
    try:
        observe(options.port, options.prometheus_port, options.rate, options.minutes)
    except ObserveError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
