"""Owns the promise that one chunk is computed at a time and that new callers come in between two of them."""

import asyncio

import pytest
import uvloop

from service.ranking.scheduler import Turns


async def _computing(turns: Turns, done: list[int], number: int) -> None:
    await turns.take()
    done.append(number)
    turns.give()


def test_turns_go_by_the_order_of_asking_and_who_left_is_passed_over() -> None:
    async def go() -> list[int]:
        turns = Turns()
        done = []
        tasks = [asyncio.create_task(_computing(turns, done, n)) for n in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _computing(turns, done, 9)
        return done

    assert uvloop.run(go()) == [0, 1, 2, 4, 5, 9]


def test_those_who_left_do_not_keep_the_turn() -> None:
    async def go() -> list[int]:
        turns = Turns()
        done = []
        await turns.take()
        waiting = asyncio.create_task(_computing(turns, done, 1))
        await asyncio.sleep(0)
        turns.give()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(_computing(turns, done, 2), 5)
        return done

    assert uvloop.run(go()) == [2]


def test_connections_are_accepted_between_two_chunks_that_came_together() -> None:
    async def go() -> tuple[list[int], int]:
        accepted: list[int] = []

        class Counting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.append(1)
                transport.close()

        server = await asyncio.get_running_loop().create_server(Counting, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connections = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(1)]
        callers = [asyncio.create_task(asyncio.open_connection("127.0.0.1", port)) for _ in range(12)]
        await asyncio.sleep(0)
        turns = Turns()
        seen = []

        async def compute() -> None:
            await turns.take()
            seen.append(len(accepted))
            turns.give()

        await asyncio.gather(*(compute() for _ in range(4)))
        connections += [writer for _, writer in await asyncio.gather(*callers)]
        for writer in connections:
            writer.close()
        server.close()
        return seen, len(accepted)

    seen, whole = uvloop.run(go())
    assert whole == 13
    assert seen[-1] - seen[0] >= 6, f"accepted before each chunk: {seen}"
