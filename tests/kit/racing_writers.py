"""Writers that write one object at the same moment, each on the condition of what it has read."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from service.objects.answers import ReplacedMeanwhile
from service.objects.store import RegistryObjects

WRITERS = 20


def assert_one_wins(objects: RegistryObjects, name: str, rounds: int) -> None:
    """Let 20 writers create an object and replace it again and again; in each round one of them is not refused."""
    etag = None
    for _ in range(rounds):
        winners = _raced(objects, name, etag)
        present = objects.look(name).stored
        assert present is not None
        assert [present.content] == [_content_of(winner, etag) for winner in winners]
        etag = present.etag


def _raced(objects: RegistryObjects, name: str, replaces: str | None) -> list[int]:
    """Let all write at the same moment; return those that were not refused."""
    barrier = Barrier(WRITERS)

    def write(writer: int) -> bool:
        barrier.wait()
        try:
            objects.write(name, _content_of(writer, replaces), replaces)
        except ReplacedMeanwhile:
            return False
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        return [writer for writer, written in enumerate(pool.map(write, range(WRITERS))) if written]


def _content_of(writer: int, replaces: str | None) -> bytes:
    return f"by {writer} in place of {replaces}".encode()
