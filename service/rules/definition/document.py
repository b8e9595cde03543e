"""Holds the rules document: the rules that are live, in one file of the registry that every worker follows.

Without a document, no scene has rules.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from features.files.strict_yaml import YamlError, read_yaml
from features.model_types import refuse_misread_truths
from service.documents import RevisionedDocument
from service.errors import first_fault
from service.files import Attempt
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets

RULES_FILE = "rules.json"
HISTORY_LENGTH = 20
_CONTENT = ("rules", "experiments")


class RulesDocument(RuleSets):
    """The document: rules by scene and experiments, their author, and the earlier states (raw JSON, newest first)."""

    author: str = ""
    reason: str = ""
    written_at: str = ""
    restores: int | None = None
    history: tuple[dict[str, Any], ...] = ()


DOCUMENT = RevisionedDocument(
    file=RULES_FILE,
    title="rules",
    model=RulesDocument,
    state=_CONTENT,
    history_length=HISTORY_LENGTH,
    unreadable=RulesError,
)


def read_rules(path: Path) -> RuleSets:
    """Read the rules of a YAML or JSON file, in the form of `PUT /rules`.

    Raises RulesError that names the file and the field; a repeated key is an error.
    """
    try:
        document = read_yaml(path)
        refuse_misread_truths(document, RuleSets)
        return RuleSets.model_validate(document.value)
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror}") from None
    except YamlError as error:
        raise RulesError(str(error)) from None
    except ValidationError as error:
        raise RulesError(f"{path}: {first_fault(error, RuleSets)}") from None


def write_rules(
    registry: Path,
    rule_sets: RuleSets,
    author: str,
    *,
    reason: str = "",
    expected_revision: int | None = None,
    check: Callable[[RuleSets], None] | None = None,
    attempt: Attempt | None = None,
) -> RulesDocument:
    """Make `rule_sets` live. Raises Conflict, OSError, and what `check` raises."""
    content = rule_sets.model_dump(mode="json", include=set(_CONTENT))
    return DOCUMENT.change(
        registry,
        lambda _before: content,
        author,
        reason=reason,
        expected_revision=expected_revision,
        initial=RulesDocument(revision=0, rules={}, author="start"),
        check=check,
        attempt=attempt,
    )
