"""Tests a serving worker: its imports, and its memory."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The imports of a worker of version 0.1.0. A new import costs memory in every worker: add one only with a measurement.
IMPORTS = {
    "annotated_doc",
    "annotated_types",
    "anyio",
    "click",
    "cryptography",
    "cython_runtime",
    "fastapi",
    "hiredis",
    "httptools",
    "numpy",
    "onnxruntime",
    "opentelemetry",
    "orjson",
    "prometheus_client",
    "pydantic",
    "pydantic_core",
    "redis",
    "starlette",
    "tqdm",
    "typing_extensions",
    "typing_inspection",
    "uvicorn",
    "uvloop",
    "yaml",
}
OURS = {"features", "funnelrank", "service"}
# Version 0.1.0 grew by 80 MiB when it imported its application; a tenth more is allowed.
MOST_MIB = 88
IN_A_WORKER = """
import json, sys

def resident_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

# As with requirements/serve.txt alone: redis imports this part of the extra `traces` where it is installed.
sys.modules["opentelemetry.sdk"] = None
before = resident_mib()
import service.server.app
import service.store.redis.opening  # a worker opens its store when it builds the application
modules = sorted({m.partition(".")[0] for m in sys.modules})
print(json.dumps({"grown_by_mib": resident_mib() - before, "modules": modules}))
"""


def test_a_worker_imports_what_it_imported_before_and_takes_no_more_memory() -> None:
    command = [sys.executable, "-c", IN_A_WORKER]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    worker = json.loads(done.stdout)
    packages = {name for name in worker["modules"] if not name.startswith("_")} - set(sys.stdlib_module_names)
    assert packages - OURS - IMPORTS == set()
    assert worker["grown_by_mib"] < MOST_MIB
