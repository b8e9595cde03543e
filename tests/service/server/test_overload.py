"""Tests overload: with three times the possible load, as many rankings succeed as before, in the same time."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop

from bench.measuring.open_loop import Client, Load, highest_rate, offered, request_of
from service.sample.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[3]
IN_TIME_MS = 400
MAX_WAIT_MS = 100
ATTEMPTS = 3  # other work on the machine may hit one side of a comparison


@pytest.mark.slow
def test_goodput_at_three_times_the_sustainable_load_stays(
    tmp_path: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis
) -> None:
    request = request_of({"user_id": "712", "candidates": [str(i) for i in range(1000)], "timeout_ms": IN_TIME_MS})

    async def measured(port: int) -> tuple[float, Load, Load]:
        client = Client(port)
        await offered(client, [request], 5, 1)

        async def meets(rate: float) -> bool:
            return (await offered(client, [request], rate, 1.5)).goodput(IN_TIME_MS) >= 0.97 * rate

        rate = await highest_rate(meets, start=10, factor=1.3)
        loads = [await offered(client, [request], times * rate, 6, settling=1) for times in (1, 3)]
        await client.close()
        return rate, loads[0], loads[1]

    attempts = []
    with kit.serving(tmp_path, ROOT / "sample" / "registry", redis_server.url, max_wait_ms=MAX_WAIT_MS) as server:
        for _ in range(ATTEMPTS):
            rate, once, thrice = uvloop.run(measured(int(server.url.rsplit(":", 1)[1])))
            goodput = once.goodput(IN_TIME_MS)
            goodput_at_three_times = thrice.goodput(IN_TIME_MS)
            ratio = goodput_at_three_times / goodput
            statuses = {status: len(ms) for status, ms in thrice.ms.items()}
            attempts.append(
                f"{rate:.0f}/s sustainable; goodput {goodput:.0f}/s, at three times {goodput_at_three_times:.0f}/s "
                f"({ratio:.2f}); p99 {once.percentile(0.99):.0f} and {thrice.percentile(0.99):.0f} ms; "
                f"answers {statuses}; client late by {thrice.lag_ms:.0f} ms"
            )
            print(attempts[-1])
            assert set(thrice.ms) <= {200, 503, 504}
            if ratio >= 0.9 and thrice.percentile(0.99) <= max(1.2 * once.percentile(0.99), MAX_WAIT_MS):
                return
    pytest.fail("; ".join(attempts))
