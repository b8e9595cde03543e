"""Measures serving against the number of keys: publish, verify, load, memory per worker, scoring, swaps."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.results.targets import Verdict
from bench.scale.parts import PartResult, ScaleSizes, answer_of
from bench.scale.serving_processes import DIM, Peak, child, loaded, publish, score, source_table, swapped

SMALL_KEYS = 10_000
_FULL_KEYS = 50_000_000
_SWAP_KEYS = 20_000_000
_SWAP_TURNS = 3
MIB = 1 << 20


def measure(sizes: ScaleSizes) -> PartResult:
    """Measure a bundle of 10 thousand keys and a large one."""
    from service.sample.embedded_redis import EmbeddedRedis

    keys = _FULL_KEYS if sizes.full else sizes.serving_keys
    swap_keys = min(keys, _SWAP_KEYS)
    figures: dict[str, dict[str, Any]] = {}
    folders = {}
    with tempfile.TemporaryDirectory(prefix="scale-", dir=sizes.folder) as name, EmbeddedRedis() as redis:
        for label, count in (("small", SMALL_KEYS), ("large", keys)):
            registry = Path(name) / label
            figures[label] = published(registry, "1", count)
            folders[label] = figures[label].pop("folder")
            figures[label] |= verified(folders[label], Path(name) / f"runtime-{label}")
            # Minutes pass between the steps of a large bundle.
            print(f"{count:,} keys: {described(figures[label])}", flush=True)
        with child(score, folders) as pipe:
            for label, us in answer_of(pipe, "scoring").items():
                figures[label]["score_us"] = us
                print(f"{label}: {us:.0f} us to score", flush=True)
        for label, count in (("small", SMALL_KEYS), ("large", swap_keys)):
            registry = Path(name) / label
            if swap_keys < keys and label == "large":
                shutil.rmtree(registry)
                published(registry, "1", count)
            published(registry, "2", count)
        for label, swap in swapped_in_turns({label: Path(name) / label for label in figures}, redis.url).items():
            figures[label]["swap"] = swap
    return PartResult(list(lines(figures, keys)), figures, verdicts(figures, keys, swap_keys))


def swapped_in_turns(registries: dict[str, Path], redis_url: str) -> dict[str, dict[str, float]]:
    """The medians of what swaps cost in each registry. They take turns: one p99 moves by 15 % from run to run."""
    turns: dict[str, list[dict[str, float]]] = {label: [] for label in registries}
    for _ in range(_SWAP_TURNS):
        for label, registry in registries.items():
            turns[label].append(swapped(registry, redis_url))
    return {
        label: {name: median(figures[name] for figures in measured) for name in measured[0]}
        for label, measured in turns.items()
    }


def published(registry: Path, version: str, keys: int) -> dict[str, Any]:
    """Publish in a process of its own, whose memory is that of a publisher alone."""
    registry.mkdir(exist_ok=True)
    with child(publish, registry, version, keys) as pipe:
        figures: dict[str, Any] = answer_of(pipe, f"publishing {keys:,} keys")
    # What the table was made from would take the page cache's room from the bundle.
    source_table(registry, version).unlink()
    return figures


def verified(folder: Path, runtime: Path) -> dict[str, Any]:
    """Hash the files once, as the first process of a host does, then load the bundle in several workers."""
    from service.bundle.hashes import HashRecords
    from service.bundle.verify import read_manifest, verified_files

    runtime.mkdir(mode=0o700)
    with Peak() as peak:
        started = time.perf_counter()
        verified_files(folder, read_manifest(folder), hashes=HashRecords(runtime))
        seconds = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.iterdir())
    figures = {"verify_s": seconds, "verify_peak_mib": peak.mib, "bytes": size}
    return figures | loaded(folder, runtime)


def described(figures: dict[str, Any]) -> str:
    """The figures of one bundle in a line."""
    worker = figures["further_worker_mib"]
    return (
        f"{figures['bytes'] / MIB:,.0f} MiB; publish {figures['publish_s']:.0f} s, "
        f"{figures['publish_peak_mib']:.0f} MiB; "
        f"verify {figures['verify_s']:.2f} s, {figures['verify_peak_mib']:.0f} MiB; load {figures['load_s']:.2f} s; "
        f"a further worker {worker['private']:.0f} MiB private, {worker['proportional']:.0f} proportional"
    )


def lines(figures: dict[str, Any], keys: int) -> Iterator[str]:
    """The figures of both bundles for the terminal."""
    yield f"{'':<44}{SMALL_KEYS:>12,}{keys:>14,} keys x {DIM}"
    small = figures["small"]
    large = figures["large"]
    for title, name, unit in (
        ("bundle, MiB", "bytes", MIB),
        ("publish, s", "publish_s", 1),
        ("publish, peak of anonymous memory, MiB", "publish_peak_mib", 1),
        ("verify (hash), once per host, s", "verify_s", 1),
        ("verify, peak of anonymous memory, MiB", "verify_peak_mib", 1),
        ("load after verification, s", "load_s", 1),
        ("load after verification, CPU s", "load_cpu_s", 1),
        ("score of C=200 L=20, CPU us", "score_us", 1),
    ):
        yield f"{title:<44}{small[name] / unit:>12.2f}{large[name] / unit:>14.2f}"
    for kind in ("private", "proportional", "anonymous"):
        name = f"a further worker, {kind} memory, MiB"
        yield f"{name:<44}{small['further_worker_mib'][kind]:>12.1f}{large['further_worker_mib'][kind]:>14.1f}"
    for kind in ("calm_p99_ms", "swaps_p99_ms"):
        name = f"p99 {kind.removesuffix('_p99_ms')}, ms"
        yield f"{name:<44}{small['swap'][kind]:>12.1f}{large['swap'][kind]:>14.1f}"


def verdicts(figures: dict[str, Any], keys: int, swap_keys: int) -> list[Verdict]:
    """The targets of serving large tables."""
    large = figures["large"]
    small = figures["small"]
    serving = f"serving {keys / 1e6:g} million keys x {DIM}"
    p99 = large["swap"]["swaps_p99_ms"] / small["swap"]["swaps_p99_ms"]
    peak = max(large["publish_peak_mib"], large["verify_peak_mib"])
    bounds = [
        (f"{serving}: publish and verify, peak of anonymous memory, GiB", peak / 1024, 16.0),
        (f"{serving}: load after verification, s", large["load_s"], 3.0),
        (f"{serving}: private memory of a further worker, MiB", large["further_worker_mib"]["private"], 150.0),
        (f"{serving}: scoring against {SMALL_KEYS:,} keys", large["score_us"] / small["score_us"], 1.2),
        (f"swaps of 2 x {swap_keys / 1e6:g} million keys: p99 against {SMALL_KEYS:,} keys", p99, 1.25),
    ]
    return [Verdict(title, value, bound, at_least=False) for title, value, bound in bounds]
