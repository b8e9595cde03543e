"""Holds the fusion document: the live profiles, in one file of the registry that every worker follows.

Without a document, the profiles of the start apply: the YAML file of the settings, or the plain sum of all
probabilities.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.documents import RevisionedDocument
from service.files import Attempt
from service.fusion.profiles import FusionError, FusionProfiles

FUSION_FILE = "fusion.json"
HISTORY_LENGTH = 20
_CONTENT = ("profiles", "scenes", "experiments")


class FusionDocument(FusionProfiles):
    """The document: profiles, scenes and experiments, their author, and the earlier states (raw JSON, newest first)."""

    author: str = ""
    reason: str = ""
    written_at: str = ""
    restores: int | None = None
    history: tuple[dict[str, Any], ...] = ()


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


def write_fusion(
    registry: Path,
    profiles: FusionProfiles,
    started_with: FusionProfiles,
    author: str,
    *,
    reason: str = "",
    expected_revision: int | None = None,
    check: Callable[[FusionProfiles], None] | None = None,
    attempt: Attempt | None = None,
) -> FusionDocument:
    """Make `profiles` live.

    `started_with` are the profiles that apply if there is no document. Raises Conflict, OSError, and what `check`
    raises.
    """
    content = profiles.model_dump(mode="json", include=set(_CONTENT))
    present = started_with.model_dump(mode="json", include={"revision", *_CONTENT})
    initial = FusionDocument.model_validate(present | {"author": "start"})
    return DOCUMENT.change(
        registry,
        lambda _before: content,
        author,
        reason=reason,
        expected_revision=expected_revision,
        initial=initial,
        check=check,
        attempt=attempt,
    )
