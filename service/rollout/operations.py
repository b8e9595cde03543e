"""Carries out operators' changes in a thread, for a limited time, and raises the errors that a caller reads.

A change that takes too long is answered with RegistryUnavailable and is not carried out later.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from service.bundle.verify import BundleRejected
from service.documents import Document, DocumentUnreadable, Edit, RevisionedDocument
from service.errors import Conflict, DocumentError, NotReady, RegistryUnavailable, UnknownModel, Unusable, invalid
from service.files import Attempt, run_attempt
from service.fusion import FusionProfiles, plain_profiles
from service.fusion.document import DOCUMENT as FUSION_DOCUMENT
from service.fusion.document import FusionDocument, document_of
from service.rollout.following.follower import Follower
from service.rollout.rollout import ROLLOUT_FILE, Rollout
from service.rollout.trials.checks import RegistryChecks, go_back, refuse_unfetched, roll_out
from service.rollout.trials.fusion_trial import with_profiles
from service.rollout.trials.rules_trial import with_rules
from service.rules.definition.document import DOCUMENT as RULES_DOCUMENT
from service.rules.definition.document import RulesDocument
from service.rules.definition.rule_sets import RuleSets

Result = TypeVar("Result")
CHANGE_SECONDS = 30.0


async def change_rollout(follower: Follower, changes: Mapping[str, Any], edit: Edit) -> Rollout:
    """Make versions live.

    Raises UnknownModel, Unusable, Conflict (also if a version does not fit the fusion profiles), InvalidRequest,
    RegistryUnavailable.
    """

    def work(attempt: Attempt) -> Rollout:
        checks = checks_of(follower)
        try:
            return roll_out(checks, changes, edit, attempt)
        except BundleRejected as error:
            if error.code == "bundle_missing":
                raise UnknownModel(f"{error.detail}: it is not published; GET /models lists what is") from None
            refuse_unfetched(error)
            raise Unusable(f"{error.code}: {error.detail}") from None
        except DocumentError as error:
            raise Conflict(f"{error.code}: {error}") from None

    return await _within_limit(work, ROLLOUT_FILE)


async def roll_back(follower: Follower, line: str | None, to: int | None, edit: Edit) -> Rollout:
    """Restore the previous state of a line (None: the default line), or that of revision `to`.

    Raises InvalidRequest for an unknown line, Conflict (also if a version of that state cannot be started) and
    RegistryUnavailable.
    """

    def work(attempt: Attempt) -> Rollout:
        checks = checks_of(follower)
        try:
            return go_back(checks, edit, line=line, to=to, attempt=attempt)
        except BundleRejected as error:
            refuse_unfetched(error)
            raise Conflict(f"the earlier versions cannot be started any more: {error}") from None
        except DocumentError as error:
            raise Conflict(f"{error.code}: {error}") from None

    return await _within_limit(work, ROLLOUT_FILE)


async def change_fusion(follower: Follower, profiles: FusionProfiles, edit: Edit) -> FusionDocument:
    """Make profiles live, provided that they fit every version in use and give recent requests finite scores.

    Raises InvalidRequest with the field, NotReady, Conflict, RegistryUnavailable.
    """
    live = follower.live
    if live is None:
        raise NotReady("no model is loaded, so the profiles cannot be checked")
    document = document_of(follower.started_with or plain_profiles(live.bundle.manifest.task_kinds))
    trial = partial(with_profiles, profiles, follower.snapshot, follower.observers.recent)
    fits = checks_of(follower).fit_profiles
    return await _replaced(document, follower, profiles, trial, fits, edit)


async def roll_back_profiles(follower: Follower, to: int | None, edit: Edit) -> FusionDocument:
    """Restore the previous profiles, or those of revision `to`.

    Raises InvalidRequest, Conflict, RegistryUnavailable.
    """

    def check(document: FusionProfiles) -> None:
        with_profiles(document, follower.snapshot, follower.observers.recent)
        checks_of(follower).fit_profiles(document)

    return await _restored(FUSION_DOCUMENT, follower, check, to, edit)


async def change_rules(follower: Follower, rule_sets: RuleSets, edit: Edit) -> RulesDocument:
    """Make rules live, provided that they fit every version in use and do not empty recent requests.

    Raises InvalidRequest with the field, NotReady, Conflict, RegistryUnavailable.
    """
    if follower.live is None:
        raise NotReady("no model is loaded, so the rules cannot be checked")

    trial = partial(with_rules, rule_sets, follower.snapshot, follower.observers.recent)
    fits = checks_of(follower).fit_rules
    return await _replaced(RULES_DOCUMENT, follower, rule_sets, trial, fits, edit)


async def roll_back_rules(follower: Follower, to: int | None, edit: Edit) -> RulesDocument:
    """Restore the previous rules, or those of revision `to`.

    Raises InvalidRequest, Conflict, RegistryUnavailable.
    """

    def check(document: RuleSets) -> None:
        with_rules(document, follower.snapshot, follower.observers.recent)
        checks_of(follower).fit_rules(document)

    return await _restored(RULES_DOCUMENT, follower, check, to, edit)


def checks_of(follower: Follower) -> RegistryChecks:
    """The checks for the registry that a worker follows."""
    settings = follower.loader.settings
    return RegistryChecks(
        follower.registry,
        settings.trusted_keys,
        follower.started_with,
        settings.max_versions,
        follower.loader.hashes,
    )


async def _replaced(
    document: RevisionedDocument[Document],
    follower: Follower,
    state: BaseModel,
    trial: Callable[[], object],
    check: Callable[[Document], None],
    edit: Edit,
) -> Document:
    """Make `state` live after its trial on recent requests, provided that `check` accepts the new document."""

    def work(attempt: Attempt) -> Document:
        # The trial takes the longest, so it runs before the registry is locked.
        trial()
        return document.change(follower.registry, document.whole(state), edit, check=check, attempt=attempt)

    return await _within_limit(work, document.file)


async def _restored(
    document: RevisionedDocument[Document],
    follower: Follower,
    check: Callable[[Document], None],
    to: int | None,
    edit: Edit,
) -> Document:
    """Restore an earlier state of a document that `check` accepts."""

    def work(attempt: Attempt) -> Document:
        return document.roll_back(follower.registry, edit, to=to, check=check, attempt=attempt)

    return await _within_limit(work, document.file)


async def _within_limit(work: Callable[[Attempt], Result], document: str) -> Result:
    """Run a change. Raises InvalidRequest for a state that does not fit, Conflict, RegistryUnavailable."""
    try:
        return await run_attempt(work, CHANGE_SECONDS, "the registry")
    except DocumentError as error:
        raise invalid(error.field, error.message) from None
    except OSError as error:
        raise RegistryUnavailable(document, error) from error
    except DocumentUnreadable as error:
        raise Conflict(str(error)) from None
