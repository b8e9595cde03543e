"""Reads from an event log which actions between click and conversion are worth modelling.

Wen et al., SIGIR 2020 (arXiv 1910.07099), sections 1 and 3: few clicks lead to a purchase, but many carts and wishes
do. So an action that is frequent after clicks and decisive for conversions splits one sparse step into two denser ones.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tables import Batch, TableError, open_table

MISSING_TIME = -(2**63)


class PathsError(ValueError):
    """A log that does not have the requested columns or values; the message lists those that it has."""


@dataclass(frozen=True)
class Columns:
    """The names of a log's columns."""

    user: str = "user_id"
    item: str = "item_id"
    action: str = "action"
    time: str = "time_ms"


@dataclass(frozen=True)
class Decomposition:
    """Figures of (user, item) pairs if any of `actions` were the step between click and conversion.

    `removed`: the decrease of the sparsity 1 / p(conversion | click), as a share, if the sparser of the two steps
    through the action is counted instead. `explained`: the share of the entropy of the conversion among clicked pairs
    that the action explains.
    """

    actions: str
    clicked: int
    acted: int
    converted: int
    converted_after_action: int
    action_rate: float
    conversion_rate: float
    conversion_after_action: float
    conversion_without_action: float
    coverage: float
    removed: float
    explained: float


@dataclass(frozen=True)
class Paths:
    """For each clicked pair, the actions between its first click and its first conversion, and whether it converted."""

    acted: pd.DataFrame
    converted: np.ndarray
    routes: pd.Series
    unclicked: int


def read_paths(events: pd.DataFrame, columns: Columns, click: str, actions: Sequence[str], conversion: str) -> Paths:
    """Find the paths of every (user, item) pair that was clicked. Raises PathsError for a name that the log does not
    have.

    Events before the pair's first click are left out (it may have been clicked before the log begins). Of events at the
    same time, a click counts as earlier than an action, and an action as earlier than a conversion. `unclicked`: pairs
    with an action or a conversion but no click.
    """
    _refuse_unknown(events, columns, [click, *actions, conversion])
    pair = [columns.user, columns.item]
    first_click = events[events[columns.action] == click].groupby(pair)[columns.time].min().rename("clicked_at")
    used = events[events[columns.action].isin([*actions, conversion])]
    later = used.join(first_click, on=pair)
    unclicked = len(later[later["clicked_at"].isna()][pair].drop_duplicates()) if len(later) else 0
    later = later[later[columns.time] >= later["clicked_at"]]
    first = later.groupby([*pair, columns.action])[columns.time].min().unstack().reindex(index=first_click.index)
    bought_at = first[conversion] if conversion in first else pd.Series(np.nan, index=first.index)
    times = {a: (first[a] if a in first else pd.Series(np.nan, index=first.index)) for a in actions}
    acted = pd.DataFrame({a: at.notna() & ~(at > bought_at) for a, at in times.items()})
    order = pd.DataFrame({a: at.where(acted[a]) for a, at in times.items()})
    return Paths(acted, bought_at.notna().to_numpy(), _routes(order, click, conversion, bought_at.notna()), unclicked)


def _refuse_unknown(events: pd.DataFrame, columns: Columns, names: Sequence[str]) -> None:
    for role, column in asdict(columns).items():
        if column not in events:
            raise PathsError(f"--{role}: the log has no column '{column}'; it has: {', '.join(events)}")
    known = sorted(map(str, events[columns.action].dropna().unique()))
    for name in names:
        if name not in known:
            raise PathsError(f"'{name}' does not occur in the column '{columns.action}'; it holds: {', '.join(known)}")


def _routes(order: pd.DataFrame, click: str, conversion: str, converted: pd.Series) -> pd.Series:
    """The number of pairs per route, such as `pv > cart > buy`, most frequent first."""
    values = order.to_numpy(dtype=float)
    names = np.array(order.columns)
    middle = pd.Series(
        [" > ".join(names[[i for i in np.argsort(row, kind="stable") if not np.isnan(row[i])]]) for row in values],
        index=order.index,
    )
    route = click + middle.map(lambda text: f" > {text}" if text else "") + np.where(converted, f" > {conversion}", "")
    return route.value_counts()


def decompositions(paths: Paths) -> list[Decomposition]:
    """The figures of every set of the actions, single actions first."""
    names = list(paths.acted)
    sets = [chosen for n in range(1, len(names) + 1) for chosen in itertools.combinations(names, n)]
    return [
        decomposition(" or ".join(chosen), paths.acted[list(chosen)].any(axis=1).to_numpy(), paths.converted)
        for chosen in sets
    ]


def decomposition(name: str, acted: np.ndarray, converted: np.ndarray) -> Decomposition:
    """The figures of one set of actions from bool `[clicked pairs]`."""
    n = len(acted)
    of_action = int(acted.sum())
    of_conversion = int(converted.sum())
    both = int((acted & converted).sum())
    # Rates, and the rates of converting with and without the action.
    p_action = _share(of_action, n)
    p = _share(of_conversion, n)
    after = _share(both, of_action)
    without = _share(of_conversion - both, n - of_action)
    # How much of the entropy of converting is left if the action is known.
    entropy = _entropy(p)
    left = p_action * _entropy(after) + (1 - p_action) * _entropy(without)
    return Decomposition(
        actions=name,
        clicked=n,
        acted=of_action,
        converted=of_conversion,
        converted_after_action=both,
        action_rate=p_action,
        conversion_rate=p,
        conversion_after_action=after,
        conversion_without_action=without,
        coverage=_share(both, of_conversion),
        removed=max(0.0, 1 - p / min(p_action, after)) if min(p_action, after) > 0 else 0.0,
        explained=1 - left / entropy if entropy > 0 else 0.0,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _entropy(p: float) -> float:
    return 0.0 if p <= 0 or p >= 1 else -(p * np.log(p) + (1 - p) * np.log(1 - p))


def read_events(path: Path, columns: Columns) -> tuple[pd.DataFrame, int]:
    """Read the log of a .parquet or .csv file, ids and actions as text; also return how many events lack a value.

    Raises PathsError.
    """
    names = list(asdict(columns).values())
    try:
        table = open_table(path, "events")
        for role, column in asdict(columns).items():
            if column not in table.columns:
                raise PathsError(f"--{role}: the log has no column '{column}'; it has: {', '.join(table.columns)}")
        parts = [_events(batch, columns) for batch in table.batches(names)]
    except TableError as error:
        raise PathsError(f"{path}: {error.detail}") from error
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
    complete = whole[whole.notna().all(axis=1)]
    if complete[columns.time].dtype == "Int64":
        complete = complete.astype({columns.time: np.int64})
    return complete, len(whole) - len(complete)


def _events(batch: Batch, columns: Columns) -> pd.DataFrame:
    texts = {name: batch.texts(name) for name in (columns.user, columns.item, columns.action)}
    frame = pd.DataFrame({name: [text or None for text in values] for name, values in texts.items()}, dtype=object)
    # Only the order matters, so seconds and fractions of seconds serve as well as milliseconds.
    if batch.is_float64(columns.time):
        frame[columns.time] = batch.numbers(columns.time)
    else:
        times = pd.Series(batch.times(columns.time, bounded=False, missing=MISSING_TIME))
        frame[columns.time] = times.astype("Int64").mask(times == MISSING_TIME)
    return frame
