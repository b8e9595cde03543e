"""Tests that one chunk is scored at a time, in FIFO order, and that callers can connect between two chunks."""

import asyncio

import pytest
import uvloop

from service.ranking.scoring.scheduler import Scheduler


async def _computing(scheduler: Scheduler, done: list[int], number: int) -> None:
    await scheduler.acquire()
    done.append(number)
    scheduler.release()


def test_the_order_is_fifo_and_cancelled_callers_are_skipped() -> None:
    async def go() -> list[int]:
        scheduler = Scheduler()
        done = []
        tasks = [asyncio.create_task(_computing(scheduler, done, n)) for n in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _computing(scheduler, done, 9)
        return done

    assert uvloop.run(go()) == [0, 1, 2, 4, 5, 9]


def test_a_second_pass_is_next_after_the_chunk_that_is_being_scored() -> None:
    async def go() -> list[int]:
        scheduler = Scheduler()
        done: list[int] = []
        await scheduler.acquire()
        tasks = [asyncio.create_task(_computing(scheduler, done, n)) for n in range(3)]
        await asyncio.sleep(0)
        # Its first pass ends here, while three wait.
        scheduler.release()
        await scheduler.acquire(next_turn=True)
        done.append(9)
        scheduler.release()
        await asyncio.gather(*tasks)
        return done

    assert uvloop.run(go()) == [9, 0, 1, 2]


def test_a_cancelled_caller_does_not_keep_the_turn() -> None:
    async def go() -> list[int]:
        scheduler = Scheduler()
        done = []
        await scheduler.acquire()
        waiting = asyncio.create_task(_computing(scheduler, done, 1))
        await asyncio.sleep(0)
        scheduler.release()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(_computing(scheduler, done, 2), 5)
        return done

    assert uvloop.run(go()) == [2]


def test_connections_are_accepted_between_two_chunks() -> None:
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
        scheduler = Scheduler()
        seen = []

        async def compute() -> None:
            await scheduler.acquire()
            seen.append(len(accepted))
            scheduler.release()

        await asyncio.gather(*(compute() for _ in range(4)))
        connections += [writer for _, writer in await asyncio.gather(*callers)]
        for writer in connections:
            writer.close()
        server.close()
        return seen, len(accepted)

    seen, whole = uvloop.run(go())
    assert whole == 13
    assert seen[-1] - seen[0] >= 6, f"accepted before each chunk: {seen}"
