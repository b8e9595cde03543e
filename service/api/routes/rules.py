"""Answers `GET /rules`, `PUT /rules` and `POST /rules/rollback`: the rules that rearrange rankings after fusion."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import ConfigDict

from service.api.access.operators import Operator
from service.api.body import JsonBody
from service.api.changes import IfMatch, Uptake, changed_document, document_response, edit_of
from service.api.fields import Author, Reason, Revision, RollbackRequest
from service.api.openapi import BODY, CHANGE, OPERATOR, refuses
from service.api.services import Services, Worker
from service.errors import NotReady
from service.files import STORE_PLACES, run_limited
from service.rollout.operations import change_rules, roll_back_rules
from service.rollout.trials.rule_items import NOT_CHECKED, item_warnings
from service.rules.definition.document import RULES_FILE, RulesDocument
from service.rules.definition.rule_sets import RuleSets

router = APIRouter(tags=["rules"])
JsonObject = dict[str, Any]
_CHECK_SECONDS = 10.0
NO_RULE_SETS = RuleSets(revision=0, rules={})


class RulesRequest(RuleSets):
    """The new rules and experiments; they replace all present ones.

    With `revision` the change is made only if the rules are still at that revision.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "rules": {
                    "default": [
                        {"type": "block", "item_ids": ["7"]},
                        {"type": "pin", "item_id": "2544", "position": 3},
                        {"type": "quota", "feature": "author_id", "at_most": 2, "window": 5},
                    ]
                }
            }
        }
    )

    revision: Revision = None  # type: ignore[assignment]
    author: Author = ""
    reason: Reason = ""


class RulesState(RulesDocument):
    """The rules in use. Author and history are set if `PUT /rules` has written a document."""


class RulesChange(RulesDocument):
    """The document after a change. `served` says whether a worker ranks with it already.

    `warnings` name listed items that the store does not have.
    """

    served: Uptake
    warnings: list[str]


@router.get(
    "/rules",
    summary="Rules by scene in the operator's order, experiments, and the earlier states",
    response_model=RulesState,
    responses=refuses(NotReady),
)
async def state(worker: Worker) -> JSONResponse:
    """The rules that this worker ranks with."""
    worker.follower.current()
    rule_sets = worker.follower.snapshot.documents.rule_sets or NO_RULE_SETS
    return await document_response(rule_sets.revision, partial(shown, rule_sets))


@router.put(
    "/rules",
    summary="Make other rules hold",
    dependencies=[Operator],
    response_model=RulesChange,
    responses=refuses(*BODY, *OPERATOR, *CHANGE, NotReady),
)
async def change(
    body: Annotated[RulesRequest, Depends(JsonBody(RulesRequest, max_keys=100_000, threaded=True))],
    worker: Worker,
    if_match: IfMatch,
) -> JSONResponse:
    """Replaces the rules document. The rules must fit every version in use."""
    document = await change_rules(worker.follower, body, edit_of(body, if_match))
    return await _changed(worker, document)


@router.post(
    "/rules/rollback",
    summary="Restore earlier rules",
    dependencies=[Operator],
    response_model=RulesChange,
    responses=refuses(*BODY, *OPERATOR, *CHANGE),
)
async def rollback(
    body: Annotated[RollbackRequest, Depends(JsonBody(RollbackRequest, required=False, max_keys=1000))],
    worker: Worker,
    if_match: IfMatch,
) -> JSONResponse:
    """Writes an earlier state as a new revision."""
    document = await roll_back_rules(worker.follower, body.to, edit_of(body, if_match))
    return await _changed(worker, document)


async def _changed(worker: Services, document: RulesDocument) -> JSONResponse:
    warnings: list[str] = []
    if worker.follower.live is not None:
        store_url = worker.settings.redis_url.get_secret_value()
        fingerprints = [live.bundle.layouts.fingerprint for live in worker.follower.snapshot.versions()]
        warnings = await _item_warnings(document, fingerprints, store_url)
    return await changed_document(worker, RULES_FILE, document, lambda: shown(document) | {"warnings": warnings})


async def _item_warnings(document: RulesDocument, fingerprints: list[str], store_url: str) -> list[str]:
    work = partial(item_warnings, document, fingerprints, store_url)
    try:
        return await run_limited(work, _CHECK_SECONDS, "the feature store", STORE_PLACES)
    except TimeoutError:
        return [NOT_CHECKED]


def shown(rule_sets: RuleSets) -> JsonObject:
    """Return a document as JSON, without the options of a rule that have their default."""
    document = rule_sets.model_dump(mode="json")
    document["rules"] = {name: _without_defaults(rules) for name, rules in document["rules"].items()}
    if isinstance(rule_sets, RulesDocument):
        document["history"] = [_past(entry) for entry in rule_sets.history]
    return document


def _past(entry: JsonObject) -> JsonObject:
    """Return an entry of the history, which is stored as raw JSON, in the form of the present document."""
    rules = {name: _without_defaults(each) for name, each in entry.get("rules", {}).items()}
    return {"withdrawn": False, "experiments": {}, "author": "", "reason": ""} | entry | {"rules": rules}


def _without_defaults(rules: list[JsonObject]) -> list[JsonObject]:
    """Return rules without their absent options, and without those of their conditions."""
    return [_stated(rule) for rule in rules]


def _stated(rule: JsonObject) -> JsonObject:
    return {
        name: _stated(value) if isinstance(value, dict) else value for name, value in rule.items() if value is not None
    }
