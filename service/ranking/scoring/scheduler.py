"""Schedules scoring in FIFO order, one chunk at a time, yielding to the event loop between chunks."""

import asyncio
from collections import deque

# uvloop accepts one connection per pass of the loop. With several passes between two chunks, new callers are accepted
# as fast as they arrive, and refused at once if necessary; otherwise they would wait in the kernel's queue, where no
# deadline counts. One pass per waiting ranking is enough.
_MOST_PASSES = 4


class Scheduler:
    """A FIFO lock: `await acquire()` before a chunk is scored, `release()` after it.

    A ranking that is alone never waits for the loop.
    """

    def __init__(self) -> None:
        self._acquired = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self, next_turn: bool = False) -> None:
        """Wait for the turn to compute, with `next_turn` before all that wait already."""
        if not self._acquired:
            self._acquired = True
            return
        turn = asyncio.get_running_loop().create_future()
        if next_turn:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Another ranking may have released the lock to this one in the same pass of the loop.
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Release the lock to the next ranking, after at least one pass of the loop, so that new callers can
        queue too.
        """
        asyncio.get_running_loop().call_soon(self._pass_on, 1)

    def _pass_on(self, passes: int) -> None:
        if passes < min(len(self._waiting), _MOST_PASSES):
            asyncio.get_running_loop().call_soon(self._pass_on, passes + 1)
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._acquired = False
