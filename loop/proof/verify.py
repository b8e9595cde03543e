"""Verifies logged exposures: their rows against the tables that training reads, their scores against ONNX Runtime.

A difference is skew between what was served and what is trained on. It is named with its feature, its row and the first
moment at which it was seen.
"""

import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from features.files.writing import write_whole
from features.layouts import Layouts
from features.packing.rows import RowLayout
from features.schemas.schema import Feature, Numeric, Vector
from features.statistics import relative_difference
from loop.errors import LogError
from loop.join.served import ServedRows, entity_rows
from loop.log.hours import hour_name
from loop.proof.again import logged_predictions, open_bundle, scored_again
from loop.proof.records import Exposure, exposures_of, layouts_of
from loop.proof.sources import SourceRows, names_of, read_sources
from service.bundle.loading import Bundle
from service.bundle.verify import BundleRejected
from service.exposures.folder import VERIFIED

TOLERANCE = 1e-4  # relative, as for a bundle's golden request
_SHARES = 1 << 32


@dataclass
class Skew:
    """A feature or task whose values differ: how often, since when, and the first example."""

    name: str
    count: int = 0
    first_ms: int = 0
    example: str = ""

    def see(self, time_ms: int, example: str) -> None:
        self.count += 1
        if not self.example or time_ms < self.first_ms:
            self.first_ms = time_ms
            self.example = example


@dataclass
class Verification:
    """The exposures that were verified, those that could not be (by reason), and what differs by name."""

    exposures: int = 0
    compared_rows: int = 0
    bit_equal: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    skews: dict[str, Skew] = field(default_factory=dict)

    def note(self, name: str, time_ms: int, example: str) -> None:
        self.skews.setdefault(name, Skew(name)).see(time_ms, example)

    def skip(self, reason: str, count: int = 1) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + count


def verify(
    log: Path,
    registry: Path,
    tables: Path | None = None,
    share: float = 1.0,
    hours: Collection[str] | None = None,
) -> Verification:
    """Verify a share of the compacted exposures, chosen by a stable hash of the request id. Raises LogError.

    The sample is held in memory: `share` and `hours` bound it.
    """
    done = Verification()
    sample = [each for each in exposures_of(log, hours) if _place(each["request_id"]) < share * _SHARES]
    if not sample and hours is None:
        raise LogError(f"{log} has no compacted exposure to verify; run `funnelrank compact` first")
    # Score each exposure again with the version that served it.
    bundles: dict[str, Bundle | str] = {}
    for exposure in sample:
        _verify_scores(exposure, log, registry, bundles, done)
    if tables is not None:
        for schema in sorted({each["schema"] for each in sample}):
            of_schema = [each for each in sample if each["schema"] == schema]
            try:
                layouts = layouts_of(log, schema)
            except LogError as error:
                done.skip(str(error), len(of_schema))
                continue
            source = read_sources(tables, layouts, of_schema, names_of(of_schema, bundles))
            _verify_rows(of_schema, layouts, source, done)
    done.exposures = len(sample)
    return done


def write_counts(log: Path, done: Verification) -> None:
    """Write the counts beside the log, where the service reads them for its metrics."""
    counts = {"exposures": done.exposures, "skews": {name: skew.count for name, skew in sorted(done.skews.items())}}
    write_whole(log / VERIFIED, json.dumps(counts).encode())


def _place(request_id: str) -> int:
    return zlib.crc32(request_id.encode())


def _verify_scores(
    exposure: Exposure, log: Path, registry: Path, bundles: dict[str, Bundle | str], done: Verification
) -> None:
    """Compare an exposure's task scores with those of the same rows in ONNX Runtime.

    `bundles` are those of earlier exposures; one that cannot be used is the reason.
    """
    label = f"{exposure['model']}/{exposure['version']}"
    if label not in bundles:
        try:
            bundles[label] = open_bundle(registry, exposure["model"], exposure["version"])
        except LogError:
            bundles[label] = f"the bundle {label} is not in the registry"
        except BundleRejected as error:
            bundles[label] = f"the bundle {label} is rejected ({error.code})"
    bundle = bundles[label]
    before = logged_predictions(exposure)
    if isinstance(bundle, str):
        done.skip(bundle)
        return
    if not np.isfinite(before).all():
        done.skip("the model failed, or did not score every item in a brown-out")
        return
    try:
        again = scored_again(exposure, layouts_of(log, exposure["schema"]), bundle).predictions
    except LogError as error:
        done.skip(str(error))
        return
    done.bit_equal += int(again.tobytes() == before.tobytes())
    for row, task in enumerate(exposure["tasks"]):
        difference = relative_difference(before[row].astype(np.float64), again[row].astype(np.float64))
        # Written so that NaN differs too.
        for place in np.flatnonzero(~(difference <= TOLERANCE)).tolist():
            example = f"served {before[row, place]:.7g}, computed {again[row, place]:.7g}"
            done.note(f"task {task}", exposure["time_ms"], _where(exposure, exposure["item_ids"][place], example))


def _verify_rows(sample: list[Exposure], layouts: Layouts, source: SourceRows, done: Verification) -> None:
    """Compare the rows of exposures with those of the tables."""
    for exposure in sample:
        if any(reason.startswith(("store_unavailable", "corrupt_rows")) for reason in exposure["degraded"]):
            done.skip("the store did not give its rows")
            continue
        done.compared_rows += 1
        # What a request gave is not what the tables have.
        given_parts = exposure.get("of_request") or ()
        if "user" in given_parts:
            done.skip("the request gave its user")
        else:
            user = source.users.get(exposure["user_id"]) or layouts.unknown_row("user", exposure["user_id"])
            _compare(exposure, "user", layouts.user, [user], [exposure["user_id"]], done)
        ids = exposure["item_ids"]
        rows = [source.items.get(item) or layouts.unknown_row("item", item) for item in ids]
        given_items = set(exposure.get("items_of_request") or ())
        if given_items:
            done.skip("the request gave features of the item", len(given_items))
        skipped = {at for at, place in enumerate(exposure["places"]) if place in given_items}
        _compare(exposure, "item", layouts.item, rows, ids, done, skipped)
        if "behaviours" in given_parts:
            done.skip("the request gave its behaviours")
        elif any(reason.startswith("brownout") for reason in exposure["degraded"]):
            done.skip("a brown-out read fewer behaviours")
        elif layouts.behaviour is not None:
            _compare_behaviours(exposure, layouts, source, done)


def _compare(
    exposure: Exposure,
    name: str,
    layout: RowLayout,
    packed: list[bytes],
    ids: list[str],
    done: Verification,
    skipped: Collection[int] = (),
) -> None:
    """Compare rows of one entity, except those at the places `skipped`."""
    rows = np.frombuffer(b"".join(packed), layout.dtype) if layout.dtype.itemsize else layout.empty(len(ids))
    computed = ServedRows(layout, rows["keys"], rows["numerics"])
    served = entity_rows(exposure, layout, name, len(ids))
    for feature in layout.features:
        for place in _differing(served, computed, feature):
            if place in skipped:
                continue
            example = f"served {_shown(served, feature, place)}, computed {_shown(computed, feature, place)}"
            done.note(f"{name}.{feature.name}", exposure["time_ms"], _where(exposure, ids[place], example))


def _compare_behaviours(exposure: Exposure, layouts: Layouts, source: SourceRows, done: Verification) -> None:
    assert layouts.behaviour is not None
    moment = exposure["time_ms"]
    times = np.frombuffer(exposure["behaviour_times"] or b"", "<i8")
    rows = source.behaviours_at(exposure["user_id"], moment, moment in times)
    if times.tolist() != rows["time"].tolist():
        newest = [f"{(moment - each[0]) / 1000:.0f} s" if len(each) else "none" for each in (times, rows["time"])]
        example = f"served {len(times)} (newest {newest[0]} old), computed {len(rows)} (newest {newest[1]} old)"
        done.note("behaviours", moment, _where(exposure, exposure["user_id"], example))
        return
    computed = ServedRows(layouts.behaviour, rows["keys"], rows["numerics"])
    served = entity_rows(exposure, layouts.behaviour, "behaviour", len(times))
    for feature in layouts.behaviour.features:
        for place in _differing(served, computed, feature):
            example = f"behaviour {place + 1}: served {_shown(served, feature, place)}, "
            example += f"computed {_shown(computed, feature, place)}"
            done.note(f"behaviour.{feature.name}", moment, _where(exposure, exposure["user_id"], example))
    width = layouts.behaviour.item_key_width
    for column, name in enumerate(("action", "scene"), width):
        if served.keys[:, column].tolist() != computed.keys[:, column].tolist():
            done.note(f"behaviour.{name}", moment, _where(exposure, exposure["user_id"], "keys differ"))


def _differing(first: ServedRows, second: ServedRows, feature: Feature) -> Iterator[int]:
    """The rows whose values of a feature differ in any bit; a missing number equals a missing number."""
    for place, (one, other) in enumerate(zip(first.values(feature), second.values(feature), strict=True)):
        missing = isinstance(feature, Numeric) and np.isnan(one) and np.isnan(other)  # a vector has one NaN only
        if not missing and np.asarray(one).tobytes() != np.asarray(other).tobytes():
            yield place


def _shown(rows: ServedRows, feature: Feature, place: int) -> str:
    value = rows.values(feature)[place]
    if isinstance(feature, Numeric | Vector):
        return "missing" if np.isnan(value).all() else " ".join(f"{number:.7g}" for number in np.atleast_1d(value)[:8])
    keys = [int(key) for key in np.atleast_1d(value) if key]
    return "missing" if not keys else "key " + ", ".join(f"{key:x}" for key in keys)


def _where(exposure: Exposure, row: str, example: str) -> str:
    return f"request {exposure['request_id']}, row '{row}': {example}"


def lines(done: Verification) -> list[str]:
    """The verification as text."""
    scored = f"{done.bit_equal:,} scored the same bit for bit"
    text = [f"{done.exposures:,} exposures, {scored}, {done.compared_rows:,} compared with the tables"]
    text += [f"not verified, {count:,}: {reason}" for reason, count in sorted(done.skipped.items())]
    for skew in sorted(done.skews.values(), key=lambda each: (each.first_ms, each.name)):
        since = hour_name(skew.first_ms // 3_600_000)
        text.append(f"{skew.name}: {skew.count:,} differ, first in the hour {since} at {skew.first_ms}: {skew.example}")
    return text
