"""Client of a funnelrank service."""

from funnelrank_client.batches import EventSender, ImpressionSender
from funnelrank_client.client import Client
from funnelrank_client.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    FunnelrankError,
    NoAnswer,
    NotAllowed,
    ProblemError,
    Unavailable,
)
from funnelrank_client.policy import Policy
from funnelrank_client.ranking import Coverage, Degradation, ModelUsed, RankedItem, Ranking
from funnelrank_client.requests import Candidate, Event, Impression

__all__ = [
    "BadRequest",
    "Candidate",
    "Client",
    "Conflict",
    "Coverage",
    "DeadlineExceeded",
    "Degradation",
    "Event",
    "EventSender",
    "FunnelrankError",
    "Impression",
    "ImpressionSender",
    "ModelUsed",
    "NoAnswer",
    "NotAllowed",
    "Policy",
    "ProblemError",
    "RankedItem",
    "Ranking",
    "Unavailable",
]
