"""Answers `GET /store/users/{user_id}` and `GET /store/items/{item_id}`: what the store has, decoded."""

from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock
from typing import Annotated

from fastapi import APIRouter, Path, Query

from features.keys import MAX_ID_CHARACTERS
from features.layouts import Entity
from service.api.access.operators import Operator
from service.api.openapi import OPERATOR, refuses
from service.api.problems import NotFound
from service.api.routes.store_answers import StoredEntity, answer
from service.api.services import Services, Worker
from service.errors import InvalidRequest, StoreUnavailable
from service.files import STORE_PLACES, run_limited
from service.store.base import StoreDown
from service.store.opening import lifetimes_of, packed_entities

# The rows of one user are nobody's business without a key, so anonymous callers are treated as at operators' calls.
router = APIRouter(tags=["store"], dependencies=[Operator])
_READ_SECONDS = 8.0
_TURN_SECONDS = 2.0
# A read computes for 3 ms, more with texts to find. Eight threads that read at once take the interpreter from rankings:
# their median grew from 2 to 12 ms.
_turn = Lock()
_MOST_BEHAVIOURS = 1000
StoredId = Annotated[str, Path(min_length=1, max_length=MAX_ID_CHARACTERS)]
Behaviours = Annotated[
    int, Query(ge=0, le=_MOST_BEHAVIOURS, description="how many of the newest behaviours the answer has")
]
_ERRORS = refuses(*OPERATOR, NotFound, InvalidRequest, StoreUnavailable)


@router.get("/store/users/{user_id:path}", summary="The rows and behaviours of a user, decoded", responses=_ERRORS)
async def user(worker: Worker, user_id: StoredId, behaviours: Behaviours = 50) -> StoredEntity:
    """Return the user's row and newest behaviours under every schema of the store."""
    return await _stored(worker, "user", user_id, behaviours)


@router.get("/store/items/{item_id:path}", summary="The rows of an item, decoded", responses=_ERRORS)
async def item(worker: Worker, item_id: StoredId) -> StoredEntity:
    """Return the item's row under every schema of the store."""
    return await _stored(worker, "item", item_id, 0)


async def _stored(worker: Services, entity: Entity, entity_id: str, behaviours: int) -> StoredEntity:
    url = worker.settings.redis_url.get_secret_value()
    in_use = [live.bundle.layouts for live in worker.follower.snapshot.versions()]
    known = [entity_id, *_scenes(worker)]
    lifetimes = lifetimes_of(worker.settings)

    def work() -> StoredEntity | None:
        packed = packed_entities(url, entity, entity_id, in_use)
        if not any(of_schema.exists for of_schema in packed):
            return None
        fingerprints = {layouts.fingerprint for layouts in in_use}
        return answer(entity, entity_id, packed, fingerprints, known, lifetimes, behaviours)

    try:
        stored = await run_limited(partial(_in_turn, work), _READ_SECONDS, "the feature store", STORE_PLACES)
    except (StoreDown, TimeoutError) as error:
        raise StoreUnavailable(f"the feature store cannot be read: {error}") from error
    if stored is None:
        raise NotFound(f"the store has nothing for the {entity} '{entity_id}' under any schema; rankings use defaults")
    return stored


def _in_turn(work: Callable[[], StoredEntity | None]) -> StoredEntity | None:
    """Run `work` when no other thread reads. Raises TimeoutError."""
    if not _turn.acquire(timeout=_TURN_SECONDS):
        raise TimeoutError("earlier readers wait for it")
    try:
        return work()
    finally:
        _turn.release()


def _scenes(worker: Services) -> Iterable[str]:
    """The scenes that the documents name, for texts of hashed values."""
    snapshot = worker.follower.snapshot
    profiles = snapshot.documents.profiles
    return [*snapshot.scenes, *(profiles.scenes if profiles is not None else ())]
