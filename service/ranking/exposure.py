"""Passes answered rankings to the exposure log, and packs them into its rows.

`ExposureLog.ranked` runs in the event loop and passes references on; `packed` runs in the log's thread.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from features import RowLayout
from features.layouts import BEHAVIOUR_INPUTS, CANDIDATE_INPUTS, ITEM_INPUTS, REQUEST_INPUTS
from service.clock import now_ms
from service.exposures.log import RecordLog
from service.fusion.formulas import Computed, Formula
from service.ranking.ordering import order
from service.ranking.query import Query, Ranking
from service.rollout.serving import Role
from service.user_split import within

KIND: Final = "exposures"
SALT: Final = "exposures"
Answered = tuple[str, int, Query, Ranking]  # the request's id, the time of the answer, the request, its ranking


class ExposureLog:
    """Decides which rankings are logged, and passes them on.

    `share` is the share of the users, 0 to 1, whose rankings are logged. Rankings of an experiment's arm and of a
    canary are logged for every user, because a comparison needs all of them.
    """

    def __init__(self, records: RecordLog, share: float) -> None:
        self._records = records
        self._share = share

    def ranked(self, request_id: str, query: Query, ranking: Ranking) -> None:
        """Log an answered ranking. Never raises and never waits."""
        sampled = (
            self._share >= 1
            or ranking.chosen is not None
            or (ranking.rules is not None and ranking.rules.chosen.experiment is not None)
            or ranking.live.role == Role.CANARY
            or within(query.user_id, SALT, 100 * self._share)
        )
        if sampled:
            record: Answered = (request_id, now_ms(), query, ranking)
            self._records.offer(KIND, record, len(query.item_ids))


@dataclass
class ExposurePacker:
    """Packs answered rankings into the log's rows. `with_cut`: items beyond `top_k` are logged as well."""

    chunk: int
    with_cut: bool
    schemas: dict[str, bytes] = field(default_factory=dict)  # the feature schemas that the rows name
    _names: dict[str, str] = field(default_factory=dict)

    def packed(self, answered: Answered) -> dict[str, Any]:
        """The row of one ranking, `{column: value}` of the exposures' Arrow schema."""
        request_id, logged_ms, query, ranking = answered
        live = ranking.live
        manifest = live.bundle.manifest
        computed = ranking.computation
        places = self._places(query, ranking)
        # Whole rows, with the columns that only rules read, and the comparison of all candidates, which the graph has.
        inputs = {**live.bundle.graph_inputs(computed.inputs), **computed.inputs}
        # What was asked, what ranked it, and the answer.
        row = {
            "request_id": request_id,
            "logged_ms": logged_ms,
            "time_ms": computed.moment_ms,
            "user_id": query.user_id,
            "scene": query.options.scene,
            "model": manifest.name,
            "version": manifest.version,
            "role": live.role.value,
            "schema": self._schema_of(live.bundle.label, manifest.feature_schema),
            "fingerprint": live.bundle.layouts.fingerprint,
            "fusion": profile_of(ranking.formula),
            "profile": ranking.formula.profile,
            "fusion_revision": live.fusion.revision,
            "experiment": ranking.chosen and ranking.chosen.experiment,
            "arm": ranking.chosen and ranking.chosen.arm,
            "degraded": list(map(str, ranking.degraded)),
            "requested": len(query.item_ids),
            "top_k": query.options.top_k or len(query.item_ids),
            "returned": len(ranking.ranked.item_ids),
            "ranked_before": 0 if ranking.rules is None else ranking.rules.ranked_before,
            "of_request": of_request(query),
            "items_of_request": items_of_request(query, live.bundle.layouts.item, places),
            "chunk": self.chunk,
            "tasks": list(live.bundle.tasks),
            "item_ids": [query.item_ids[place] for place in places.tolist()],
            "places": places.astype(np.int32),
            "sources": None if query.sources is None else [query.sources[place] for place in places.tolist()],
            "shown": computed.shown,
            "scores": computed.scores[places],
            "predictions": computed.predictions[:, places].ravel(),
            "propensity": 1.0,
        }
        # The rules of the second stage, if the scene has any.
        if ranking.rules is not None:
            rules = ranking.rules.chosen
            row |= {"rules_revision": rules.revision, "rules_list": rules.name}
            row |= {"rules_experiment": rules.experiment, "rules_arm": rules.arm}
        # The rows that the graph read, so that training can use the features as they were served.
        row |= {name: inputs[name].tobytes() for name in (*REQUEST_INPUTS, *BEHAVIOUR_INPUTS) if name in inputs}
        return row | {name: inputs[name][places].tobytes() for name in ITEM_INPUTS + CANDIDATE_INPUTS if name in inputs}

    def _places(self, query: Query, ranking: Ranking) -> np.ndarray:
        """Positions in the request of the returned items, and on request of those that were cut, int64 `[k]`."""
        place_of = {item_id: place for place, item_id in enumerate(query.item_ids)}
        returned = np.array([place_of[item_id] for item_id in ranking.ranked.item_ids], dtype=np.int64)
        if not self.with_cut or len(returned) == len(query.item_ids):
            return returned
        best = order(ranking.computation.scores, ranking.computation.coverage[1], None)
        return np.concatenate([returned, best[~np.isin(best, returned)]])

    def _schema_of(self, label: str, schema: Any) -> str:
        """The name of a version's feature schema in the log: 16 hex digits over its JSON."""
        name = self._names.get(label)
        if name is None:
            document = schema.model_dump_json().encode()
            name = self._names[label] = hashlib.sha256(document).hexdigest()[:16]
            self.schemas[name] = document
        return name


def of_request(query: Query) -> list[str]:
    """Name what the request gave in place of what the store has, beside features of items."""
    user = query.inline_user
    if user is None:
        return []
    values = {"user": user.features, "behaviours": user.behaviours}
    return [name for name, value in values.items() if value is not None]


def items_of_request(query: Query, layout: RowLayout, places: np.ndarray) -> list[int]:
    """Those of the places whose request gave features of the item in place of the stored ones."""
    features = query.own_features
    return [place for place in places.tolist() if place in features and any(name in layout for name in features[place])]


def profile_of(formula: Formula) -> str:
    """Return a formula as the JSON of a fusion profile, including the request's own weights."""
    profile: dict[str, Any] = {"kind": formula.kind, "weights": formula.named_weights()}
    if isinstance(formula, Computed):
        profile |= {"formula": formula.expression.text, "missing": dict(formula.missing)}
    return orjson.dumps(profile).decode()


def rows_of(packer: ExposurePacker, answered: Sequence[Answered]) -> list[Mapping[str, Any]]:
    """The rows of several rankings."""
    return [packer.packed(each) for each in answered]
