"""Defines the request and the response of `POST /rank`."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict

from features.times import EARLIEST_MS, LATEST_MS
from service.api.fields import MAX_BATCH, MAX_LABEL_CHARACTERS, Features, Id, Label, RequestBody, RequestId
from service.fusion import Weights
from service.rules.pages import MAX_CHARACTERS

# The highest value of FUNNELRANK_MAX_CANDIDATES. Validation of a list stops at its first bad entry, so it stays fast.
MAX_LIST = 100_000


class Candidate(RequestBody):
    """A candidate with a source, or with feature values for this request: those of candidate features, and of item
    features, which replace the stored ones.
    """

    item_id: Id
    features: Features = Field(default_factory=dict)
    source: Annotated[Id | None, Field(description="which retrieval it comes from, for rules of type interleave")] = (
        None
    )


class RankedBehaviour(RequestBody):
    """A behaviour of the user, for this request alone."""

    item_id: Id
    action: Annotated[Label, Field(description="what the user did")]
    scene: Annotated[Label | None, Field(description="where")] = None
    timestamp: Annotated[int, Strict(), Field(ge=EARLIEST_MS, le=LATEST_MS, description="milliseconds since 1970")]


class FusionOverride(RequestBody):
    """Weights that replace the profile's weights for this request, if the operator allows it."""

    weights: Weights


class RankRequest(RequestBody):
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
    scene: Annotated[
        str | None, Field(max_length=MAX_LABEL_CHARACTERS, description="picks the fusion profile and the rules")
    ] = None
    context: Annotated[dict[str, Any], Field(default_factory=dict, description="raw values of the context features")]
    top_k: Annotated[
        int | None, Strict(), Field(ge=1, description="length of the ranking; by default all candidates")
    ] = None
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
            description="time to rank as of, milliseconds since 1970: later behaviours do not count; default: now",
        ),
    ] = None
    explain: Annotated[bool, Strict(), Field(description="adds each task's weight and part of the score")] = False
    user_features: Annotated[
        Features | None, Field(description="the user's features for this request, in place of the stored ones")
    ] = None
    behaviours: Annotated[
        list[RankedBehaviour] | None,
        Field(max_length=MAX_BATCH, description="the user's behaviours for this request, in place of the stored ones"),
        FailFast(),
    ] = None
    page: Annotated[
        str | None,
        Field(max_length=MAX_CHARACTERS, description="the token of the previous page: continues after it"),
    ] = None
    request_id: RequestId | None = None


class Prediction(BaseModel):
    """One ranked candidate. `score` or a prediction is null if the model did not give it."""

    item_id: str
    rank: int
    score: float | None
    predictions: dict[str, float | None]
    explain: Annotated[
        dict[str, dict[str, float | None]] | None,
        Field(description="task or numeric -> score or value, weight, part; only on request"),
    ] = None
    moved_by: Annotated[
        list[dict[str, str | int | None]] | None,
        Field(description="each rule that moved it, with its rank before (null: not answered) and after; on request"),
    ] = None


class RankResponse(BaseModel):
    """The ranking, best first."""

    request_id: str
    model: Annotated[dict[str, str], Field(description="name, version and role; the line if there are several")]
    fusion: Annotated[dict[str, Any], Field(description="profile and revision; experiment and arm if the user has one")]
    rules: Annotated[
        dict[str, Any] | None,
        Field(description="revision and name of the scene's rules; relaxed rules, removed candidates, cost"),
    ] = None
    page: Annotated[str | None, Field(description="token of the next page, if rules apply and candidates remain")] = (
        None
    )
    degraded: Annotated[
        list[str], Field(description="what was missing, e.g. unknown_user, unknown_items:3, store_unavailable")
    ]
    coverage: Annotated[dict[str, int], Field(description="requested and scored candidates")]
    ranking: list[Prediction]
