"""Tests the TypeScript client: `dist/` is built from the source, its tests pass, and it covers the whole API."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from node_programs import node

from tests.service.api.test_python_client import CALLS

pytestmark = pytest.mark.tools
CLIENT = Path(__file__).parents[3] / "clients" / "typescript"
# A field of a schema may be in the interface that has the other fields of the call.
INTERFACES = {
    "RankRequest": "RankOptions",
    "Candidate": "Candidate",
    "Event": "Event",
    "Impression": "Impression",
    "RankResponse": "Ranking",
    "Prediction": "RankedItem",
    "RollbackRequest": "Rollback",
}
ARGUMENTS = {"RankRequest": {"user_id", "candidates", "timeout_ms"}}
ROUND_TRIP = """
import { BadRequest, Client } from "./dist/index.js";
const client = new Client(process.argv[1], { timeoutMs: 10000 });
const ranking = await client.rank("1", ["1", { item_id: "2" }], { context: { tab: null, hour: null }, explain: true });
const written = await client.sendEvents([{ user_id: "of-typescript", item_id: "1", action: "click" }]);
const refused = await client.rank("1", []).catch((error) => error instanceof BadRequest && error.errors[0].field);
const ids = ranking.ranking.map((item) => item.item_id).sort();
console.log(JSON.stringify([ids, written, refused, await client.isReady()]));
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client, built from its source."""
    folder = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    node("npm", "ci", "--no-audit", "--no-fund", folder=folder)
    node("npm", "run", "build", folder=folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_built_files_are_those_of_the_source(built: Path) -> None:
    assert contents(built / "dist") == contents(CLIENT / "dist"), "run `npm ci && npm run build` in clients/typescript"


def test_its_own_tests_pass(built: Path) -> None:
    assert re.search(r"^# pass 28$", node("node", "--test", "--test-reporter=tap", folder=built), re.MULTILINE)


def test_it_has_every_route_and_field(server: Any) -> None:
    document = server.http.get("/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert routes == set(CALLS)
    client = (CLIENT / "dist" / "client.d.ts").read_text()
    for call in CALLS.values():
        assert re.search(rf"^    {camel_case(call)}\(", client, re.MULTILINE), call
    types = (CLIENT / "dist" / "types.d.ts").read_text()
    for schema, interface in INTERFACES.items():
        body = re.search(rf"^export interface {interface} \{{(.*?)^\}}", types, re.MULTILINE | re.DOTALL)
        assert body is not None, interface
        named = set(re.findall(r"^    (\w+)\??:", body[1], re.MULTILINE)) | ARGUMENTS.get(schema, set())
        assert set(document["components"]["schemas"][schema]["properties"]) <= named, schema


def camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def test_a_ranking_and_an_event_of_the_service(server: Any) -> None:
    printed = node("node", "--input-type=module", "--eval", ROUND_TRIP, server.url, folder=CLIENT)
    assert printed.strip() == '[["1","2"],{"accepted":1,"new":1},"candidates",true]'
