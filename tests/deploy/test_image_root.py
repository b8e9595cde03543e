"""Builds the image's steps in a clean root of Debian, and serves the sample in it as the image's user."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_process import child, end
from container_file import Stage, built, mounted

from service.sample.calls import call, wait_until_ready
from service.sample.embedded_redis import EmbeddedRedis, free_port

pytestmark = pytest.mark.tools
ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements" / "serve.txt"
MIRROR = "http://deb.debian.org/debian"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The last stage of the Dockerfile. A clean Debian with Python stands for python:3.11-slim."""
    folder = tmp_path_factory.mktemp("image")
    # In memory: some disks take minutes to remove this many files.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)], check=True)
    try:
        yield made_image(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def made_image(folder: Path) -> Stage:
    """Carry out the steps of the Dockerfile in a folder."""
    base = folder / "base"
    # Debian 12 has Python 3.11, as the base image.
    options = ["--quiet", "--variant=minbase", "--mode=root", "--include=python3.11,python3.11-venv"]
    subprocess.run(["mmdebstrap", *options, "bookworm", str(base), MIRROR], check=True, timeout=600)
    (base / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3.11")
    # The packages are fetched here: pip of the root installs them without a network.
    wheels = base / "wheels"
    fetch = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary", ":all:", "--no-deps"]
    # Redis' client needs async-timeout before Python 3.11.3; Debian has 3.11.2, and the base image a newer one.
    packages = ["-r", str(REQUIREMENTS), "async-timeout"]
    subprocess.run([*fetch, "--dest", str(wheels), *packages], check=True, timeout=600)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    stage = built(ROOT / "Dockerfile", base, folder, offline)
    shutil.rmtree(stage.root / "wheels")
    return stage


def test_the_image_serves_the_sample_as_its_own_user(image: Stage, tmp_path: Path) -> None:
    assert image.user == "10001"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # A copy: what is mounted into a temporary folder may be removed with it.
    volume = tmp_path / "registry"
    shutil.copytree(ROOT / "sample" / "registry", volume)
    with EmbeddedRedis() as redis, mounted(image.root, {volume: "/registry"}):
        load = [sys.executable, "-m", "funnelrank", "load", str(small_tables(tmp_path / "tables"))]
        registry = {"FUNNELRANK_REGISTRY": str(volume), "FUNNELRANK_REDIS_URL": redis.url}
        subprocess.run(load, env=os.environ | registry, cwd=ROOT, check=True, timeout=120)
        image.environment |= {
            "FUNNELRANK_PORT": str(port),
            "FUNNELRANK_REDIS_URL": redis.url,
            "FUNNELRANK_WORKERS": "2",
        }
        with child(image.command([*image.entry, *image.arguments])) as process:
            wait_until_ready(process, f"{url}/readyz", 120)
            request = {"user_id": "712", "candidates": ["5239", "6831"]}
            status, answer = call("POST", f"{url}/rank", request)
            assert (status, len(answer["ranking"])) == (200, 2)
            assert end(process) == 0
    # What the user may write is the registry and the temporary folders alone.
    owned = subprocess.run(["find", str(image.root), "-uid", image.user], capture_output=True, text=True, check=True)
    assert owned.stdout.split() == [str(image.root / "registry")]


def small_tables(folder: Path) -> Path:
    """The sample's users and items, without the behaviours, which take the most time."""
    folder.mkdir()
    for name in ("users", "items"):
        shutil.copy(ROOT / "sample" / "kuairand" / f"{name}.parquet", folder)
    return folder


def test_the_image_has_no_training_code_and_no_compiler(image: Stage) -> None:
    assert sorted(path.name for path in (image.root / "app").iterdir()) == [
        "LICENSE",
        "NOTICE",
        "batch",
        "features",
        "funnelrank",
        "service",
        "tables",
    ]
    assert not (image.root / "usr" / "bin" / "gcc").exists()
    listed = subprocess.run(image.command(["python", "-m", "pip", "list"]), capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "onnx"} & {line.split()[0].lower() for line in listed.stdout.splitlines()}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_package_of_the_service_has_a_wheel_for_both_machines(machine: str, tmp_path: Path) -> None:
    """The base image has glibc 2.36 or newer."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (35, 34, 31, 28, 27, 24, 17)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    command += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", f"--target={tmp_path}"]
    done = subprocess.run(
        [*command, *platforms, f"--platform=manylinux2014_{machine}", "-r", str(REQUIREMENTS)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
