"""Holds the fusion document: the live profiles, in one file of the registry that every worker follows.

Without a document, the profiles of the start apply: the YAML file of the settings, or the plain sum of all
probabilities.
"""

from dataclasses import replace
from pathlib import Path

from service.documents import Recorded, RevisionedDocument
from service.fusion.profiles import FusionError, FusionProfiles

FUSION_FILE = "fusion.json"
HISTORY_LENGTH = 20
_CONTENT = ("profiles", "scenes", "experiments")


class FusionDocument(Recorded, FusionProfiles):
    """The document: profiles, scenes and experiments, their author, and the earlier states."""


DOCUMENT = RevisionedDocument(
    file=FUSION_FILE,
    title="fusion",
    model=FusionDocument,
    state=_CONTENT,
    history_length=HISTORY_LENGTH,
    unreadable=FusionError,
)


def read_followed_fusion(registry: Path) -> FusionDocument | None:
    """Read the document or, if it is broken, the last good one; None if there is no document.

    Raises FusionError if neither can be read.
    """
    return DOCUMENT.read_last_good(registry)


def document_of(started_with: FusionProfiles) -> RevisionedDocument[FusionDocument]:
    """The fusion document of a registry in which `started_with` apply if there is no document."""
    present = started_with.model_dump(mode="json", include={"revision", *_CONTENT})
    return replace(DOCUMENT, initial=FusionDocument.model_validate(present | {"author": "start"}))
