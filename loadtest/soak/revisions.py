"""Records which fusion profile each revision had, from the answers of `PUT /fusion` and `GET /fusion`."""

from typing import Any

from loadtest.soak.state import Soak

_PATIENCE_S = 20.0
_PAUSE_S = 0.5


def record_revisions(soak: Soak, document: Any) -> None:
    """Record the profiles of a fusion document's revision and of its history; an error response has none."""
    if not isinstance(document, dict):
        return
    for state in (document, *document.get("history", ())):
        if "default" in state.get("profiles", {}):
            soak.profiles[state["revision"]] = state["profiles"]["default"]


def look_up_revision(soak: Soak, revision: int) -> None:
    """Ask the service for the profile of a revision that an answer names before the operator's call has returned.

    The worker that is asked may follow the document a little later than the worker that ranked, so ask again for a
    while.
    """
    for _ in range(int(_PATIENCE_S / _PAUSE_S)):
        if revision in soak.profiles:
            return
        _, document = soak.call("GET", "/fusion")
        record_revisions(soak, document)
        soak.stop.wait(_PAUSE_S)
