"""Writes the JSON of a ranking.

orjson encodes whole arrays of numbers and ids at once; slices of the result are joined with constant text, so no Python
code runs per candidate. The result equals the JSON of the plain structure.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import orjson

from service.fusion import Explained
from service.ranking.query import AppliedRules, Ranked, Ranking


def answer(ranking: Ranking, request_id: str) -> bytes:
    """Return the JSON body of a 200 response."""
    manifest = ranking.live.bundle.manifest
    formula = ranking.formula
    fusion: dict[str, object] = {"profile": formula.profile, "revision": ranking.live.fusion.revision}
    if formula.overridden:
        fusion["overridden"] = True
    if ranking.chosen is not None:
        fusion |= {"experiment": ranking.chosen.experiment, "arm": ranking.chosen.arm}
    requested, scored = ranking.computation.coverage
    model = {"name": manifest.name, "version": manifest.version, "role": ranking.live.role}
    if ranking.live.line:
        model["line"] = ranking.live.line
    head: dict[str, object] = {
        "request_id": request_id,
        "model": model,
        "fusion": fusion,
        "degraded": list(map(str, ranking.degraded)),
        "coverage": {"requested": requested, "scored": scored},
    }
    if ranking.rules is not None:
        head["rules"] = _rules(ranking.rules)
        if ranking.rules.page is not None:
            head["page"] = ranking.rules.page
    written = entries(ranking.ranked, ranking.live.bundle.tasks, ranking.rules)
    return b'%b,"ranking":[%b]}' % (orjson.dumps(head)[:-1], written)


def _rules(rules: AppliedRules) -> dict[str, object]:
    """The rules of a ranking: which were relaxed, in the operator's order, and how many candidates filters removed."""
    chosen = rules.chosen
    label = chosen.bound.label
    shown: dict[str, object] = {"revision": chosen.revision, "name": chosen.name}
    if chosen.arm is not None:
        shown |= {"experiment": chosen.experiment, "arm": chosen.arm}
    shown["relaxed"] = [label(place) for place in rules.relaxed]
    shown["removed"] = {label(place): count for place, count in rules.removed.items() if count}
    if rules.explained is not None:
        shown["paid"] = {label(place): score for place, score in rules.explained.paid.items()}
    return shown


def entries(ranking: Ranked, tasks: Sequence[str], rules: AppliedRules | None = None) -> bytes:
    """The entries of the ranking, comma-separated."""
    count = len(ranking.item_ids)
    # Rules may leave no candidate.
    if not count:
        return b""
    row, gaps = row_of(tuple(tasks))
    predictions = numbers(ranking.predictions.ravel())
    ranks = between_id_and_score(count, rules.ranked_before if rules is not None else 0)
    columns = [strings(ranking.item_ids), ranks, numbers(ranking.scores)]
    columns += [predictions[start : start + count] for start in range(0, len(predictions), count)]
    if ranking.explained is not None:
        row = list(row)
        gaps = list(gaps)
        row[-1] = b"}"
        for column in [*_explained(ranking.explained), *_moved_by(rules), b"}"]:
            if isinstance(column, list):
                gaps.append(len(row))
                columns.append(column)
            row.append(b"" if isinstance(column, list) else column)
    return interleaved(row, gaps, columns, count)[1:]


@lru_cache(maxsize=64)
def row_of(tasks: tuple[str, ...]) -> tuple[list[bytes], list[int]]:
    """The constant text of one entry, empty where a column belongs, and the places of these gaps.

    The columns are the ids, the ranks, the scores and each task's predictions.
    """
    row = [b',{"item_id":"', b"", b"", b""]
    gaps = [1, 2, 3]
    opening = b',"predictions":{"%b":'
    for task in tasks:
        gaps.append(len(row) + 1)
        row += [opening % task.encode(), b""]
        opening = b',"%b":'
    return [*row, b"}}"], gaps


def _explained(explained: Sequence[Explained]) -> list[bytes | list[bytes]]:
    """Per input its value, weight and share of the score; for a product also the logarithm of the share."""
    columns: list[bytes | list[bytes]] = [b',"explain":{']
    for place, column in enumerate(explained):
        kind = b"score" if column.is_score else b"value"
        columns += [b'%b%b:{"%b":' % (b"," if place else b"", orjson.dumps(column.name), kind), numbers(column.values)]
        columns += [b',"weight":%b,"part":' % orjson.dumps(column.weight), numbers(column.parts)]
        if column.is_factor:
            with np.errstate(divide="ignore"):
                columns += [b',"log_part":', numbers(np.log(column.parts))]
        columns.append(b"}")
    columns.append(b"}")
    return columns


def _moved_by(rules: AppliedRules | None) -> list[bytes | list[bytes]]:
    """For each candidate, the rules that moved it, with its ranks before and after each rule; nothing without rules."""
    if rules is None or rules.explained is None:
        return []
    label = rules.chosen.bound.label
    moved = [
        orjson.dumps([{"rule": label(move.rule), "from": move.before, "to": move.after} for move in moves])
        for moves in rules.explained.moves
    ]
    return [b',"moved_by":', moved]


_RANKS: list[bytes] = []


def between_id_and_score(count: int, before: int = 0) -> list[bytes]:
    """The `count` ranks after `before`, each with the constant text before and after it."""
    end = before + count
    if len(_RANKS) < end:
        _RANKS.extend(b'","rank":%d,"score":' % rank for rank in range(len(_RANKS) + 1, end + 1))
    return _RANKS[before:end]


def numbers(values: np.ndarray) -> list[bytes]:
    """Encode each number as JSON in the shortest form that parses to the same bits; NaN and infinities become null."""
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def strings(values: Sequence[str]) -> list[bytes]:
    """Each string as JSON, without its outer quotes."""
    written = orjson.dumps(values)
    if b"\\" in written:  # a quote inside a string is written with one; without any, every quote belongs to a separator
        return [orjson.dumps(v)[1:-1] for v in values]
    return written[2:-2].split(b'","')


def interleaved(row: list[bytes], gaps: Sequence[int], columns: Sequence[list[bytes]], count: int) -> bytes:
    """Concatenate `count` copies of `row`, in which each gap is filled with the column that belongs there."""
    width = len(row)
    pieces = row * count
    for gap, column in zip(gaps, columns, strict=True):
        pieces[gap::width] = column
    return b"".join(pieces)
