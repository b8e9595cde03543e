"""Owns whose turn it is to compute: one chunk of one ranking at a time, first come first served, with the event loop in between."""

import asyncio
from collections import deque

# uvloop accepts one connection per pass of the loop. With several passes between two chunks new callers come in as fast as they arrive,
# and are shed at once if need be; without, they wait unseen in the kernel's queue, where no deadline counts. As many passes as wait are
# enough, and where only one waits a second pass would be for nothing.
_MOST_PASSES = 4


class Turns:
    """`await take()` before computing, `give()` after it. Who computes never waits for the loop where nobody else wants to."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if not self._taken:
            self._taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """The turn is free after a pass of the loop at the earliest, for those who would compute in this same pass wait too."""
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
        self._taken = False
