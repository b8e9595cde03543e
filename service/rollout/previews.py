"""Previews a fusion or rules document: the checks of its change, and its effect on recent requests; changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from service.errors import DocumentError, NotReady, Overloaded, RegistryUnavailable, invalid
from service.files import run_limited
from service.fusion import FusionProfiles
from service.fusion.document import FUSION_FILE
from service.rollout.following.follower import Follower
from service.rollout.observing.background import lower_priority
from service.rollout.operations import CHANGE_SECONDS, checks_of
from service.rollout.recent import RecentRequests
from service.rollout.serving import ServingSnapshot
from service.rollout.trials.effects import Effect, effects
from service.rollout.trials.fusion_trial import tried_profiles
from service.rollout.trials.rules_trial import tried_rules
from service.rules.definition.document import RULES_FILE
from service.rules.definition.rule_sets import RuleSets


@dataclass(frozen=True, eq=False)
class Preview:
    """The effect of a document on each version that ranks, and what is not wrong but strange about it."""

    effects: list[Effect]
    warnings: list[str]


class Previews:
    """Computes one preview at a time, so that rankings keep most of the processor."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._turn = Lock()

    @property
    def recent(self) -> RecentRequests:
        return self._follower.observers.recent

    async def of_fusion(self, profiles: FusionProfiles) -> Preview:
        """Raises InvalidRequest with the field, as a change does; NotReady, Overloaded, RegistryUnavailable."""
        snapshot = self._snapshot("profiles")

        def work() -> Preview:
            after, warnings = tried_profiles(profiles, snapshot, self.recent)
            checks_of(self._follower).fit_profiles(profiles)
            return Preview(effects(snapshot, after, self.recent), warnings)

        return await self._run(work, FUSION_FILE)

    async def of_rules(self, rule_sets: RuleSets, more: Callable[[RuleSets], list[str]]) -> Preview:
        """Raises what `of_fusion` raises. `more` finds further warnings."""
        snapshot = self._snapshot("rules")

        def work() -> Preview:
            after, warnings = tried_rules(rule_sets, snapshot, self.recent)
            checks_of(self._follower).fit_rules(rule_sets)
            return Preview(effects(snapshot, after, self.recent), [*warnings, *more(rule_sets)])

        return await self._run(work, RULES_FILE)

    def _snapshot(self, document: str) -> ServingSnapshot:
        if self._follower.live is None:
            raise NotReady(f"no model is loaded, so the {document} cannot be checked")
        return self._follower.snapshot

    async def _run(self, work: Callable[[], Preview], file: str) -> Preview:
        if not self._turn.acquire(blocking=False):
            raise Overloaded("this worker computes another preview; try again in a moment")
        begun = False

        def run() -> Preview:
            nonlocal begun
            begun = True
            try:
                lower_priority()
                return work()
            finally:
                # Here, because a thread that is too slow goes on after its caller has got an answer.
                self._turn.release()

        try:
            return await run_limited(run, CHANGE_SECONDS, "the preview")
        except DocumentError as error:
            raise invalid(error.field, error.message) from None
        except OSError as error:
            # No thread begins if too many wait already.
            if not begun:
                self._turn.release()
            raise RegistryUnavailable(file, error) from error
