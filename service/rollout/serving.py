"""Holds the serving snapshot: the versions that one worker serves with, at one moment, as one frozen value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from features.layouts import Layouts
from service.bundle.loading import Bundle
from service.bundle.manifest import Manifest
from service.bundle.registry import Target
from service.errors import NotReady
from service.fusion import Fusion, FusionProfiles, bind, plain_profiles
from service.rollout.rollout import DEFAULT_LINE, Limits, RolloutLine
from service.rules.definition.rule_sets import RuleSets
from service.rules.scenes import SceneRules, bind_scenes
from service.user_split import within

SCHEMA_NOT_LOADED = "schema_not_loaded"


class Role(StrEnum):
    """The role of a loaded version."""

    STABLE = "stable"
    CANARY = "canary"
    SHADOW = "shadow"
    FIRST_PASS = "first_pass"  # nosec B105 # no password


@dataclass(frozen=True, eq=False)
class Live:
    """One loaded version in its role, with the fusion profiles and rules bound to it.

    `rules` is None if there are none. `instead_of` is empty, unless this earlier version serves because the stable
    version could not be loaded at the start; then it says which version that was. `line` is empty if there is only one.
    """

    bundle: Bundle
    fusion: Fusion
    role: Role
    revision: int
    instead_of: str = ""
    rules: SceneRules | None = None
    line: str = ""

    @property
    def place(self) -> str:
        """The role, with the line if there are several: `stable`, `item_page canary`."""
        return f"{self.line} {self.role}" if self.line else str(self.role)

    @property
    def target(self) -> Target:
        """The version, by name."""
        return Target(name=self.bundle.manifest.name, version=self.bundle.manifest.version)


def bind_profiles(manifest: Manifest, profiles: FusionProfiles | None) -> Fusion:
    """Bind profiles (the plain default if there are none) to a model. Raises FusionError."""
    return bind(profiles or plain_profiles(manifest.task_kinds), manifest.task_names, manifest.item_numerics)


def bind_rule_sets(manifest: Manifest, rule_sets: RuleSets | None) -> SceneRules | None:
    """Bind rules to a model; None if there are no rules. Raises RulesError."""
    if rule_sets is None:
        return None
    layout = Layouts.of(manifest.feature_schema).of_rules
    return bind_scenes(rule_sets, layout, manifest.task_names, tuple(manifest.item_vectors))


@dataclass(frozen=True, slots=True)
class NotServing:
    """Why a worker cannot rank. Without a code, no model is loaded."""

    detail: str
    code: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BoundDocuments:
    """The documents that are bound to every loaded version.

    `profiles` are the fusion profiles in use, None for the plain default; `rule_sets` are the rules, None without any.
    """

    profiles: FusionProfiles | None = None
    rule_sets: RuleSets | None = None


@dataclass(frozen=True, eq=False)
class ServingLine:
    """The versions that one line serves with.

    `named` is the line in the document that named them. `not_serving` is None if the line can rank.
    """

    name: str = DEFAULT_LINE
    stable: Live | None = None
    canary: Live | None = None
    shadow: Live | None = None
    first_pass: Live | None = None
    named: RolloutLine | None = None
    not_serving: NotServing | None = NotServing("no model is loaded yet")

    @property
    def limits(self) -> Limits:
        """The limits of new versions."""
        return self.named.limits if self.named is not None else Limits()

    @property
    def percent(self) -> float:
        """The canary's share of the users, 0 to 100."""
        canary = self.named.canary if self.named is not None else None
        return canary.percent if canary is not None else 0.0

    def in_role(self, role: Role) -> Live | None:
        live: Live | None = getattr(self, role.value)
        return live

    def with_lives(self, lives: Mapping[Role, Live | None]) -> "ServingLine":
        """The line with other versions, or none, in these roles."""
        fields: dict[str, Any] = {role.value: live for role, live in lives.items()}
        return replace(self, **fields)

    def loaded(self) -> Iterator[Live]:
        """The loaded versions: stable, canary, shadow, and that of the first pass."""
        return (live for role in Role if (live := self.in_role(role)) is not None)

    def usable(self, target: Target, role: Role) -> Live | None:
        """Return the loaded version that can take a role without another gate; None if there is none.

        The scores of a first pass only choose candidates, so a first pass was not compared with the stable version.
        """
        compared = (live for live in self.loaded() if live.role != Role.FIRST_PASS or role == Role.FIRST_PASS)
        return next((live for live in compared if live.bundle.label == str(target)), None)

    def current(self) -> Live:
        """The stable version. Raises NotReady if there is none, or if it does not fit the store."""
        if self.not_serving is not None:
            raise NotReady(self.not_serving.detail, self.not_serving.code)
        assert self.stable is not None
        return self.stable

    def for_user(self, user_id: str) -> Live:
        """Return the canary for its share of the users, otherwise the stable version. Raises NotReady, as `current`
        does.
        """
        stable = self.current()
        canary = self.canary
        if canary is not None and within(user_id, canary.bundle.label, self.percent):
            return canary
        return stable

    def described(self) -> dict[str, Any]:
        """The versions by role, as `GET /models` shows them."""
        shown: dict[str, Any] = {}
        for role in Role:
            name = "live" if role == Role.STABLE else role.value
            live = self.in_role(role)
            shown[name] = None
            if live is not None:
                manifest = live.bundle.manifest
                shown[name] = {
                    "name": manifest.name,
                    "version": manifest.version,
                    "role": role.value,
                    "revision": live.revision,
                }
        if self.canary is not None:
            shown["canary"]["percent"] = self.percent
        return shown


@dataclass(frozen=True, eq=False)
class ServingSnapshot:
    """The lines and documents that a worker serves with. A request takes one snapshot and keeps it; a change makes a
    new one.

    `lines` are by name, the default line first; `scenes` has the line of each scene that does not use the default one.
    """

    lines: Mapping[str, ServingLine] = field(default_factory=lambda: {DEFAULT_LINE: ServingLine()})
    scenes: Mapping[str, str] = field(default_factory=dict)
    documents: BoundDocuments = BoundDocuments()

    @cached_property
    def default(self) -> ServingLine:
        return self.lines[DEFAULT_LINE]

    @cached_property
    def _by_scene(self) -> Mapping[str | None, ServingLine]:
        lines = {scene: self.lines[name] for scene, name in self.scenes.items() if name in self.lines}
        return {scene: line for scene, line in lines.items() if line.not_serving is None}

    def line_of(self, scene: str | None) -> ServingLine:
        """Return the line of a scene. The default line serves the scenes of a line that cannot rank."""
        return self._by_scene.get(scene, self.default)

    def with_line(self, line: ServingLine) -> "ServingSnapshot":
        """The snapshot with another state of one line."""
        return replace(self, lines={**self.lines, line.name: line})

    def with_bound(self, bound: Mapping[str, Live], documents: BoundDocuments) -> "ServingSnapshot":
        """The snapshot with other documents. `bound` has each loaded version, by its label, bound to them."""
        lines = {}
        for name, line in self.lines.items():
            lives = {}
            for live in line.loaded():
                to_documents = bound[live.bundle.label]
                lives[live.role] = replace(live, fusion=to_documents.fusion, rules=to_documents.rules)
            lines[name] = line.with_lives(lives)
        return replace(self, lines=lines, documents=documents)

    def loaded(self) -> Iterator[Live]:
        """The loaded versions by line and role; a version that has several places comes several times."""
        return (live for line in self.lines.values() for live in line.loaded())

    def lines_with(self, bundle: Bundle) -> list[ServingLine]:
        """The lines that have loaded a version."""
        return [line for line in self.lines.values() if any(live.bundle is bundle for live in line.loaded())]

    def versions(self) -> list[Live]:
        """The distinct loaded versions, each in its first place."""
        first: dict[str, Live] = {}
        for live in self.loaded():
            first.setdefault(live.bundle.label, live)
        return list(first.values())

    @cached_property
    def exposure_days(self) -> float:
        """The number of days for which a rule needs a user's exposures; 0 if none does."""
        return max((live.rules.exposure_days for live in self.loaded() if live.rules is not None), default=0.0)

    def described(self) -> dict[str, Any]:
        """The versions by line and role, as `GET /models` shows them; the default line's at the top."""
        shown = self.default.described()
        profiles = self.documents.profiles
        rule_sets = self.documents.rule_sets
        shown["fusion_revision"] = profiles.revision if profiles is not None else 0
        shown["rules_revision"] = rule_sets.revision if rule_sets is not None else 0
        shown["loaded"] = [_memory_of(live) for live in self.versions()]
        if len(self.lines) > 1:
            shown["lines"] = {name: line.described() for name, line in self.lines.items()}
        return shown


def _memory_of(live: Live) -> dict[str, Any]:
    manifest = live.bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "graph_bytes": live.bundle.graph_bytes}
