"""The plain ranking server as a BentoML service with one worker. BentoML is in no requirements file of this project."""

import bentoml

from bench.contenders.peer import PeerRanker, PeerRequest, PeerResponse


# Without metrics and log lines per request: the other servers write none.
@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class BentoRanker:
    def __init__(self) -> None:
        self.ranker = PeerRanker()

    # A parameter that has no name is the whole body.
    @bentoml.api(route="/rank")
    async def rank(self, request: PeerRequest, /) -> PeerResponse:
        return await self.ranker.rank(request)
