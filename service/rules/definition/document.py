"""Holds the rules document: the rules that are live, in one file of the registry that every worker follows.

Without a document, no scene has rules.
"""

from pathlib import Path

from pydantic import ValidationError

from features.files.strict_yaml import YamlError, read_yaml
from features.model_types import refuse_misread_truths
from service.documents import Recorded, RevisionedDocument
from service.errors import first_fault
from service.rules.definition.errors import RulesError
from service.rules.definition.rule_sets import RuleSets

RULES_FILE = "rules.json"
HISTORY_LENGTH = 20


class RulesDocument(Recorded, RuleSets):
    """The document: rules by scene and experiments, their author, and the earlier states."""


NO_RULES = RulesDocument(revision=0, rules={}, author="start")
DOCUMENT = RevisionedDocument(
    file=RULES_FILE,
    title="rules",
    model=RulesDocument,
    state=("rules", "experiments"),
    history_length=HISTORY_LENGTH,
    unreadable=RulesError,
    initial=NO_RULES,
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
