"""Owns the JSON of every request: pydantic models that check it and from which `/docs` is written."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, model_validator

from features.times import EARLIEST_MS, LATEST_MS
from service.bundle.registry import Target
from service.fusion import Weights
from service.fusion.profiles import FusionProfiles
from service.rollout.rollout import Canary, Limits

MAX_ID_CHARACTERS = 256
MAX_BATCH = 1000
MAX_LIST = 100_000  # candidates that FUNNELRANK_MAX_CANDIDATES can allow; long lists end at their first bad entry, so that none costs seconds
Label = Annotated[
    Annotated[str, Strict(), Field(max_length=512)] | Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)],
    Field(union_mode="left_to_right"),
]
RequestId = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
Id = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
Features = Annotated[dict[str, Any], Field(description="raw values by feature name; null is a missing value")]


class _Body(BaseModel):
    # Ids differ from one another: looking for each in a cache of strings costs more than making it.
    model_config = ConfigDict(extra="forbid", frozen=True, cache_strings="keys")


class Candidate(_Body):
    """A candidate with values of its own, which replace the stored ones for this request."""

    item_id: Id
    features: Features = {}


class FusionOverride(_Body):
    """Weights that replace the profile's for this request, where the operator allows it."""

    weights: Weights


class RankRequest(_Body):
    """A user and the candidates to rank for them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "user_id": "712",
                "candidates": ["5239", {"item_id": "6831", "features": {"tag": "39"}}],
                "top_k": 50,
                "timeout_ms": 80,
            }
        }
    )

    user_id: Id
    candidates: Annotated[
        list[Annotated[Id | Candidate, Field(union_mode="left_to_right")]],
        Field(min_length=1, max_length=MAX_LIST),
        FailFast(),
    ]
    scene: Annotated[str | None, Field(description="picks the fusion profile")] = None
    context: Annotated[dict[str, Any], Field(description="raw values of the context features")] = {}
    top_k: Annotated[int | None, Strict(), Field(ge=1, description="how many to answer with; all by default")] = None
    timeout_ms: Annotated[
        int | None, Strict(), Field(ge=1, le=600_000, description="deadline, counted from arrival")
    ] = None
    fusion: FusionOverride | None = None
    timestamp: Annotated[
        int | None,
        Strict(),
        Field(
            ge=EARLIEST_MS,
            le=LATEST_MS,
            description="rank as of then, milliseconds since 1970: only behaviours before it count; now by default",
        ),
    ] = None
    explain: Annotated[bool, Strict(), Field(description="adds each task's weight and part of the score")] = False
    request_id: RequestId | None = None


class Event(_Body):
    """One behaviour of a user. Sent twice (same user, time and event_id, or same user, time, item, action, scene) it counts once."""

    user_id: Id
    item_id: Id
    action: Annotated[Label, Field(description="what the user did")]
    scene: Annotated[Label | None, Field(description="where")] = None
    timestamp: Annotated[int, Strict(), Field(ge=EARLIEST_MS, le=LATEST_MS, description="milliseconds since 1970")]
    event_id: Annotated[str | None, Field(min_length=1, max_length=MAX_ID_CHARACTERS)] = None


class EventsRequest(_Body):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "events": [{"user_id": "712", "item_id": "5239", "action": "click", "timestamp": 1650988800000}]
            }
        }
    )

    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


class UserFeatures(_Body):
    user_id: Id
    features: Features


class ItemFeatures(_Body):
    item_id: Id
    features: Features


class UsersRequest(_Body):
    """Values that are merged onto what is stored; a feature that is not named keeps its value, null makes it missing."""

    users: Annotated[list[UserFeatures], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


class ItemsRequest(_Body):
    """Values that are merged onto what is stored; a feature that is not named keeps its value, null makes it missing."""

    items: Annotated[list[ItemFeatures], Field(min_length=1, max_length=MAX_BATCH), FailFast()]


Revision = Annotated[
    int | None, Strict(), Field(ge=0, description="make the change only where the document is still at it")
]
Author = Annotated[str, Field(max_length=200)]
Reason = Annotated[str, Field(max_length=1000)]


class RolloutRequest(_Body):
    """What shall be live. What is not named keeps its value, null removes a canary or shadow; a limit that is not named keeps its value too."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "stable": {"name": "kuairand-mmoe", "version": "3"},
                "canary": {"name": "kuairand-mmoe", "version": "4", "percent": 5},
                "shadow": None,
            }
        }
    )

    stable: Target | None = None
    canary: Canary | None = None
    shadow: Target | None = None
    limits: Limits | None = None
    revision: Revision = None
    author: Author = ""
    reason: Reason = ""

    @model_validator(mode="after")
    def _names_something(self) -> "RolloutRequest":
        named = self.model_fields_set & {"stable", "canary", "shadow", "limits"}
        if not named:
            raise ValueError("name stable, canary, shadow or limits")
        if "stable" in named and self.stable is None:
            raise ValueError("stable: a version is always live; it cannot be null")
        return self

    def changes(self) -> dict[str, Any]:
        """What the request names of the document."""
        return {
            name: getattr(self, name)
            for name in ("stable", "canary", "shadow", "limits")
            if name in self.model_fields_set
        }


class FusionRequest(FusionProfiles):
    """The profiles, scenes and experiments that shall hold, all of them. With `revision` only where fusion is still at it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "profiles": {
                    "default": {"kind": "weighted_sum", "weights": {"pctr": 1.0, "pctcvr": 10.0}},
                    "shop": {"kind": "formula", "formula": "pctr ** 0.6 * pctcvr ** 1.2 * log1p(price)"},
                },
                "scenes": {"shop": "shop"},
            }
        }
    )

    revision: Revision = None  # type: ignore[assignment]
    author: Author = ""
    reason: Reason = ""


class RollbackRequest(_Body):
    """Back to what was live before or, with `to`, at an earlier revision."""

    to: Annotated[int | None, Strict(), Field(ge=0)] = None
    revision: Revision = None
    author: Author = ""
    reason: Reason = ""


class Prediction(BaseModel):
    """One ranked candidate. `score` and a prediction are null where the model gave none."""

    item_id: str
    rank: int
    score: float | None
    predictions: dict[str, float | None]
    explain: Annotated[
        dict[str, dict[str, float | None]] | None,
        Field(description="task or numeric -> score or value, weight, part; only on request"),
    ] = None


class RankResponse(BaseModel):
    """The ranking, best first."""

    request_id: str
    model: Annotated[dict[str, str], Field(description="name, version and role")]
    fusion: Annotated[
        dict[str, Any], Field(description="profile and revision; experiment and arm where the user has one")
    ]
    degraded: Annotated[
        list[str], Field(description="what was missing, e.g. unknown_user, unknown_items:3, store_unavailable")
    ]
    coverage: Annotated[dict[str, int], Field(description="requested and scored candidates")]
    ranking: list[Prediction]


class BadField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """Every error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[BadField] = []
