"""Writes a replay as text: the proof that nothing differs, or the items in both orders."""

from collections.abc import Iterator

import numpy as np

from loop.proof.replay import PageReplay, Replay

_SHOWN = 20


def lines(replayed: Replay) -> list[str]:
    """The replay as text, page by page."""
    ranked_by = f"{replayed.pages[0].exposure['model']}/{replayed.version}, profile {replayed.profile}"
    if replayed.change.rules is not None:
        ranked_by += ", no rules" if replayed.change.rules == "0" else f", rules {replayed.change.rules}"
    if replayed.change.redis_url is not None:
        ranked_by += ", with the rows of now"
    return [line for page in replayed.pages for line in _lines(page, ranked_by)]


def _lines(page: PageReplay, ranked_by: str) -> Iterator[str]:
    exposure = page.exposure
    before = exposure["ranked_before"] or 0
    position = f" after {before} on earlier pages" if before else ""
    count = f"{len(exposure['item_ids'])} items{position}"
    yield f"request {exposure['request_id']} of user {exposure['user_id']}, {count}, by {ranked_by}"
    yield from page.notes
    different = [*page.differing, *(["the list"] if page.is_moved else [])]
    if not different:
        if page.listed is not None:
            yield "the list is the same"
        yield "every score is the same, bit for bit"
        return
    yield f"different: {', '.join(different)}"
    yield f"{'now':>4} {'then':>5}  {'score now':>13} {'score then':>13}  item"
    yield from _table(page, before)


def _table(page: PageReplay, before: int) -> Iterator[str]:
    """The items in their order now, then those that the list has lost; `-` is no place in a list."""
    names = page.exposure["item_ids"]
    place_of = {name: place for place, name in enumerate(names)}
    returned = page.returned
    now = page.listed
    if now is None:
        now = [names[place] for place in np.argsort(-page.again.scores, kind="stable").tolist()]
    lost = [name for name in returned if name not in set(now)]
    rows = [*((str(rank), name) for rank, name in enumerate(now[:_SHOWN], before + 1)), *(("-", name) for name in lost)]
    for rank, name in rows:
        place = place_of[name]
        then = str(before + place + 1) if place < len(returned) else "-"
        score = page.again.scores[place]
        logged = page.exposure["scores"][place]
        yield f"{rank:>4} {then:>5}  {score:>13.6g} {logged:>13.6g}  {name}"
