"""Checks changes of the documents before they are written, so that a worker can always start with them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.bundle.fetching import NOT_FETCHED
from service.bundle.hashes import HashRecords
from service.bundle.manifest import Manifest
from service.bundle.registry import Target, folder_of, refuse_replaced
from service.bundle.verify import BundleRejected, read_manifest, verified_files
from service.documents import Edit, NothingEarlier
from service.errors import DocumentError, InvalidRequest, invalid
from service.files import Attempt
from service.fusion import FusionProfiles
from service.fusion.document import read_followed_fusion
from service.objects.answers import ObjectStoreAway
from service.rollout.lines.changes import change_rollout, refuse_changed, roll_back
from service.rollout.lines.view import LinePart, earlier_stable, lines_of, targets_of_line, versions_of
from service.rollout.rollout import DEFAULT_LINE, Rollout, RolloutUnreadable, read_followed
from service.rollout.serving import bind_profiles, bind_rule_sets
from service.rules.definition.document import DOCUMENT as RULES_DOCUMENT
from service.rules.definition.rule_sets import RuleSets


class RegistryChecks:
    """Checks versions, profiles and rules of one registry before they go live.

    `started_with`: the profiles that apply if there is no fusion document. `most_versions`: the number of distinct
    versions that the rollout document may name. `hashes` says which large files this host has hashed already.
    """

    def __init__(
        self,
        registry: Path,
        trusted_keys: Path | None,
        started_with: FusionProfiles | None,
        most_versions: int,
        hashes: HashRecords | None = None,
    ) -> None:
        self.registry = registry
        self._trusted_keys = trusted_keys
        self._started_with = started_with
        self._most_versions = most_versions
        self._hashes = hashes or HashRecords()
        self._verified: dict[str, Manifest] = {}

    def verify(self, target: Target) -> Manifest:
        """Check the hashes of a version's files and return its manifest. Raises BundleRejected."""
        manifest = self._verified.get(str(target))
        if manifest is None:
            folder = folder_of(self.registry, target)
            manifest = read_manifest(folder, self._trusted_keys)
            verified_files(folder, manifest, hashes=self._hashes)
            self._verified[str(target)] = manifest
        return manifest

    def profiles(self) -> FusionProfiles | None:
        """The fusion profiles in use; None for the plain default."""
        return read_followed_fusion(self.registry) or self._started_with

    def startable(self, targets: Iterable[Target]) -> None:
        """Raise BundleRejected or DocumentError if a version could not start with the profiles and rules in use."""
        profiles = self.profiles()
        rule_sets = RULES_DOCUMENT.read_last_good(self.registry)
        for target in targets:
            manifest = self.verify(target)
            bind_profiles(manifest, profiles)
            bind_rule_sets(manifest, rule_sets)

    def loadable(self, rollout: Rollout) -> None:
        """Raise InvalidRequest if a document names more distinct versions than a worker loads."""
        count = len(versions_of(rollout))
        if count > self._most_versions:
            allowed = f"{self._most_versions} are allowed (FUNNELRANK_MAX_VERSIONS)"
            raise invalid("line", f"the lines would have {count} distinct versions, {allowed}")

    def fit_profiles(self, profiles: FusionProfiles) -> None:
        """Raise FusionError if profiles do not fit a version that the rollout document names, loaded or not."""
        self._fit(lambda manifest: bind_profiles(manifest, profiles))

    def fit_rules(self, rule_sets: RuleSets) -> None:
        """Raise RulesError if rules do not fit a version that the rollout document names, loaded or not."""
        self._fit(lambda manifest: bind_rule_sets(manifest, rule_sets))

    def _fit(self, bind: Callable[[Manifest], object]) -> None:
        try:
            rollout = read_followed(self.registry)
        except RolloutUnreadable:
            return
        for target in versions_of(rollout).values():
            try:
                manifest = read_manifest(folder_of(self.registry, target), self._trusted_keys)
            except BundleRejected:  # the workers refuse it, and say so
                continue
            try:
                bind(manifest)
            except DocumentError as error:
                places = ", ".join(_places(rollout, target))
                raise type(error)(f"{error.message} ({places} {target})", error.field) from None

    def first_startable(self, rollout: Rollout, line: str = DEFAULT_LINE) -> Target:
        """Return a line's stable version or, if it cannot be loaded, the newest loadable version of its history.

        Raises the stable version's error if none can be loaded.
        """
        refusal: BundleRejected | DocumentError | None = None
        for target in (lines_of(rollout)[line].stable, *earlier_stable(rollout, line)):
            try:
                self.startable([target])
            except (BundleRejected, DocumentError) as error:
                refusal = refusal or error
            else:
                return target
        assert refusal is not None
        raise refusal


def refuse_unfetched(error: BundleRejected) -> None:
    """Raise ObjectStoreAway for a version that could not be fetched: nobody knows whether it can be started."""
    if error.code == NOT_FETCHED:
        raise ObjectStoreAway(error.detail) from None


def _places(rollout: Rollout, target: Target) -> list[str]:
    """The roles of a version, with the line's name for a further line: `stable`, `item_page canary`."""
    return [
        role if name == DEFAULT_LINE else f"{name} {role}"
        for name, line in lines_of(rollout).items()
        for role, version in targets_of_line(line).items()
        if str(version) == str(target)
    ]


def roll_out(checks: RegistryChecks, changes: Mapping[str, Any], edit: Edit, attempt: Attempt | None = None) -> Rollout:
    """Change one line of the rollout document, after hashing and binding every version that the changes name.

    Raises BundleRejected, DocumentError, Conflict, InvalidRequest, OSError; the document is then unchanged.
    """
    targets = [changes[role] for role in ("stable", "canary", "shadow", "first_pass") if changes.get(role) is not None]
    for target in targets:  # hashed before the lock is taken; only the binding waits for it
        refuse_replaced(checks.registry, target)
        checks.verify(target)

    def check(document: Rollout) -> None:
        checks.loadable(document)
        checks.startable(targets)

    return change_rollout(checks.registry, changes, edit, check=check, attempt=attempt)


def go_back(
    checks: RegistryChecks,
    edit: Edit,
    *,
    line: str | None = None,
    to: int | None = None,
    attempt: Attempt | None = None,
) -> Rollout:
    """Roll one line back, after hashing and binding the versions of the earlier state. Raises what `roll_out`
    raises.
    """

    def check(document: Rollout) -> None:
        checks.loadable(document)
        checks.startable(targets_of_line(lines_of(document)[line or DEFAULT_LINE]).values())

    return roll_back(checks.registry, edit, line=line, to=to, check=check, attempt=attempt)


def go_back_to_startable(
    checks: RegistryChecks, line: str, serving: Target, edit: Edit, since: int, attempt: Attempt
) -> Rollout:
    """Roll a line back to its newest earlier state that can be started; if there is none, to the version that serves.

    Raises Conflict if the line was changed after the revision `since`, and OSError.
    """
    rollout = read_followed(checks.registry)
    refuse_changed(rollout, line, since)
    part = LinePart(line)
    present = part.state_of(rollout.model_dump(mode="json")).get("stable")
    for entry in rollout.history:
        stable = part.state_of(entry).get("stable")
        revision = entry.get("revision")
        if part.is_withdrawn(entry) or stable in (None, present) or not isinstance(revision, int):
            continue
        try:
            if_unchanged = replace(edit, expected_revision=rollout.revision)
            return go_back(checks, if_unchanged, line=line, to=revision, attempt=attempt)
        except BundleRejected as error:
            refuse_unfetched(error)
            continue
        except (DocumentError, InvalidRequest, NothingEarlier):
            continue
    changes = {"line": line, "stable": serving}
    return change_rollout(checks.registry, changes, edit, withdraws_since=since, attempt=attempt)
