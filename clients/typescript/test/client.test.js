/** Tests the built client against a stub: deadlines, repetition, hedging, fallback, errors and batches. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";

import { BadRequest, Client, Conflict, DeadlineExceeded, NoAnswer, NotAllowed, Sender, Unavailable } from "../dist/index.js";

const RANKING = {
  request_id: "r",
  model: { name: "m", version: "1", role: "stable" },
  fusion: { profile: "default", revision: 1 },
  degraded: [],
  coverage: { requested: 1, scored: 1 },
  ranking: [{ item_id: "a", rank: 1, score: 0.5, predictions: { pctr: 0.5 } }],
};
const GOOD = [200, {}, RANKING];
const refusal = (status, code, headers = {}, errors = []) => [
  status,
  headers,
  { type: `urn:funnelrank:problem:${code}`, title: "t", status, detail: "d", code, request_id: "r", errors },
];

let server;
let url;
let requests;
let answer;

before(async () => {
  server = createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", async () => {
      const text = Buffer.concat(parts).toString();
      requests.push({ path: request.url, headers: request.headers, body: text ? JSON.parse(text) : undefined });
      const [status, headers, body] = await answer(requests.length);
      response.writeHead(status, headers);
      response.end(typeof body === "string" ? body : JSON.stringify(body));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${server.address().port}`;
});
after(() => {
  server.close();
  server.closeAllConnections();
});
beforeEach(() => {
  requests = [];
  answer = () => GOOD;
});

test("a ranking has the request's fields and a deadline for the service", async () => {
  const client = new Client(`${url}/`, { timeoutMs: 5000 });
  const candidates = ["a", { item_id: "b", features: { price: 2.5 }, source: "recent" }];
  const ranking = await client.rank("u", candidates, { scene: "home", request_id: "q-1" });
  assert.equal(ranking.ranking[0].predictions.pctr, 0.5);
  const { timeout_ms: left, ...body } = requests[0].body;
  assert.ok(left > 4000 && left <= 5000);
  assert.deepEqual(body, { user_id: "u", candidates, scene: "home", request_id: "q-1" });
});

test("a 503 is repeated after the pause that it asks for, with one request id and what is left of the deadline", async () => {
  answer = (n) => (n < 3 ? refusal(503, "overloaded", { "retry-after": "0.05" }) : GOOD);
  await new Client(url, { timeoutMs: 5000, firstPauseMs: 1 }).rank("u", ["a"]);
  assert.equal(requests.length, 3);
  assert.equal(new Set(requests.map((r) => r.body.request_id)).size, 1);
  assert.ok(requests[2].body.timeout_ms <= requests[0].body.timeout_ms - 90);
});

test("a pause that would pass the deadline is not made", async () => {
  answer = () => refusal(503, "overloaded", { "retry-after": "30" });
  await assert.rejects(new Client(url, { timeoutMs: 10_000 }).rank("u", ["a"]), (error) => {
    assert.ok(error instanceof Unavailable);
    assert.deepEqual([error.code, error.retryAfterMs, error.name], ["overloaded", 30_000, "Unavailable"]);
    return true;
  });
  assert.equal(requests.length, 1);
});

for (const [status, kind] of [[400, BadRequest], [401, NotAllowed], [403, NotAllowed], [409, Conflict], [422, BadRequest]]) {
  test(`${status} is a ${kind.name} and is not repeated`, async () => {
    answer = () => refusal(status, "some_code", {}, [{ field: "user_id", message: "m" }]);
    await assert.rejects(new Client(url).rank("u", ["a"]), (error) => {
      assert.ok(error instanceof kind);
      assert.deepEqual([error.status, error.code, error.errors[0].field], [status, "some_code", "user_id"]);
      return true;
    });
    assert.equal(requests.length, 1);
  });
}

test("a deadline holds over all attempts", async () => {
  answer = () => new Promise((resolve) => setTimeout(resolve, 500, GOOD));
  await assert.rejects(new Client(url, { timeoutMs: 80 }).rank("u", ["a"]), DeadlineExceeded);
  assert.equal(requests.length, 1);
});

test("rankOr gives the own order when the service is away, and throws for a wrong request", async () => {
  const away = new Client("http://127.0.0.1:9", { firstPauseMs: 1 });
  await assert.rejects(away.rank("u", ["a"]), NoAnswer);
  const ranking = await away.rankOr(["p", "q"], "u", ["a"]);
  assert.deepEqual([ranking.ranking.map((i) => i.item_id), ranking.fallback], [["p", "q"], true]);
  assert.deepEqual((await away.rankOr(null, "u", ["a", { item_id: "b" }])).ranking.map((i) => i.item_id), ["a", "b"]);
  assert.equal(await away.isReady(), false);
  answer = () => refusal(422, "invalid_request");
  await assert.rejects(new Client(url).rankOr(["p"], "u", ["a"]), BadRequest);
});

test("a hedge takes the first answer", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  answer = (n) => (n === 1 ? held : GOOD);
  const ranking = await new Client(url, { timeoutMs: 20_000, hedgeAfterMs: 20 }).rank("u", ["a"]);
  release(GOOD);
  assert.equal(ranking.ranking[0].item_id, "a");
  assert.equal(requests.length, 2);
});

test("a change of what is live is never repeated and alone carries the token", async () => {
  answer = () => refusal(503, "registry_unavailable", { "retry-after": "0" });
  const client = new Client(url, { token: "t", firstPauseMs: 1, attempts: 2 });
  await assert.rejects(client.putFusion({ x: 1 }), Unavailable);
  await assert.rejects(client.rollBackModels({ to: 3 }), Unavailable);
  assert.deepEqual(requests.map((r) => [r.body, r.headers.authorization]), [[{ x: 1 }, "Bearer t"], [{ to: 3 }, "Bearer t"]]);
  await assert.rejects(client.sendEvents([{ user_id: "u", item_id: "a", action: "click" }]), Unavailable);
  assert.equal(requests[2].headers.authorization, undefined);
  assert.deepEqual(requests[2].body, requests[3].body, "a repeated batch has the same ids");
  assert.match(requests[2].body.events[0].event_id, /^[0-9a-f]{32}$/);
});

test("every call carries the key, and an operators' call the token instead; a 429 is repeated", async () => {
  answer = (n) => (n === 1 ? refusal(429, "rate_limited", { "retry-after": "0" }) : GOOD);
  const client = new Client(url, { key: "k", token: "t", firstPauseMs: 1 });
  await client.rank("u", ["a"]);
  await client.getCallers();
  assert.deepEqual(requests.map((r) => r.headers.authorization), ["Bearer k", "Bearer k", "Bearer t"]);
});

test("a sender sends in batches, and one refused record takes no other with it", async () => {
  const client = new Client(url);
  const sender = new Sender((batch) => client.sendImpressions(batch), { batch: 4, everyMs: 60_000 });
  answer = () => {
    const bad = requests.at(-1).body.impressions.findIndex((one) => one.request_id === "bad");
    return bad < 0 ? [200, {}, {}] : refusal(422, "invalid_request", {}, [{ field: `impressions[${bad}].items`, message: "m" }]);
  };
  for (const request_id of ["1", "bad", "2", "3", "4"]) {
    sender.add({ request_id, items: [{ item_id: "a", position: 1 }] });
  }
  await sender.flush();
  assert.deepEqual([sender.sent, sender.dropped], [4, 1]);
  assert.deepEqual(requests.slice(1).flatMap((r) => r.body.impressions.map((one) => one.request_id)), ["1", "2", "3", "4"]);
});

for (const body of ["<html>please log in</html>", "", "null", "{}", "[]"]) {
  test(`a 200 with ${JSON.stringify(body)} is no answer, and rankOr gives the own order`, async () => {
    answer = () => [200, {}, body];
    const client = new Client(url, { firstPauseMs: 1 });
    await assert.rejects(client.rank("u", ["a"]), NoAnswer);
    assert.equal(requests.length, 3, "it is repeated like any call without an answer");
    const ranking = await client.rankOr(["p"], "u", ["a"]);
    assert.deepEqual([ranking.ranking[0].item_id, ranking.degraded, ranking.fallback], ["p", ["NoAnswer"], true]);
  });
}

test("a 200 that is not JSON is no answer of every other call", async () => {
  answer = () => [200, {}, "<html>please log in</html>"];
  const client = new Client(url, { firstPauseMs: 1 });
  await assert.rejects(client.sendEvents([{ user_id: "u", item_id: "a", action: "click" }]), NoAnswer);
  await assert.rejects(client.putFusion({}), NoAnswer);
  assert.deepEqual(requests.map((r) => r.path), ["/events", "/events", "/events", "/fusion"]);
});

test("a refusal with odd errors has its type", async () => {
  for (const errors of [null, 3, "text", ["text", null]]) {
    answer = () => refusal(422, "invalid_request", {}, errors);
    await assert.rejects(new Client(url).rank("u", ["a"]), (error) => {
      assert.ok(error instanceof BadRequest);
      assert.deepEqual(error.errors, []);
      return true;
    });
  }
});

test("a value that JSON cannot hold is a TypeError of the call and of `add`", async () => {
  const client = new Client(url);
  await assert.rejects(client.rankOr(["p"], "u", ["a"], { timestamp: 1n }), TypeError);
  const sender = new Sender((batch) => client.sendEvents(batch), { everyMs: 60_000 });
  assert.throws(() => sender.add({ user_id: "u", item_id: "a", action: "click", position: 1n }), TypeError);
  sender.add({ user_id: "u", item_id: "a", action: "click" });
  await sender.flush();
  assert.deepEqual([sender.sent, sender.dropped, requests.length], [1, 0, 1]);
});

test("a sender goes on after a page of a proxy, without a call of the page", async () => {
  answer = (n) => [200, {}, n < 3 ? "<html>" : "{}"];
  const client = new Client(url, { attempts: 1 });
  const sender = new Sender((batch) => client.sendEvents(batch), { batch: 1, pauseAfterFailureMs: 5 });
  sender.add({ user_id: "u", item_id: "a", action: "click" });
  await until(() => sender.sent === 1);
  assert.deepEqual([sender.dropped, requests.length], [0, 3]);
});

test("a sender goes on after an error that nobody expects, and counts the records", async (t) => {
  const logged = t.mock.method(console, "error", () => {});
  const odd = async (batch) => {
    if (batch[0] === "odd") {
      throw new RangeError("odd");
    }
  };
  const sender = new Sender(odd, { batch: 1, everyMs: 5 });
  sender.add("odd");
  sender.add("good");
  await until(() => sender.sent === 1);
  assert.deepEqual([sender.dropped, logged.mock.callCount()], [1, 1]);
});

test("a record that is dropped beyond the limit while it is sent counts once", async () => {
  let release;
  const held = new Promise((resolve) => (release = resolve));
  const sender = new Sender(() => held, { batch: 2, everyMs: 60_000, limit: 2 });
  for (const row of ["1", "2", "3"]) {
    sender.add(row);
  }
  release();
  await sender.flush();
  assert.deepEqual([sender.sent, sender.dropped], [2, 1]);
});

test("a sender takes more records than a call has arguments", async () => {
  const sender = new Sender(async () => {}, { batch: 1000, everyMs: 60_000, limit: 300_000 });
  for (let i = 0; i < 200_000; i++) {
    sender.add(i);
  }
  await sender.flush();
  assert.deepEqual([sender.sent, sender.dropped], [200_000, 0]);
});

test("records that are added do not shorten the pause after a failure", async () => {
  answer = (n) => (n === 1 ? refusal(503, "store_unavailable") : [200, {}, {}]);
  const client = new Client(url, { attempts: 1 });
  const options = { batch: 2, everyMs: 1, pauseAfterFailureMs: 60_000 };
  const sender = new Sender((batch) => client.sendImpressions(batch), options);
  const record = { request_id: "r", items: [{ item_id: "a", position: 1 }] };
  sender.add(record);
  sender.add({ ...record });
  for (let i = 0; i < 50; i++) {
    sender.add({ ...record });
    await new Promise((resolve) => setTimeout(resolve, 4));
  }
  assert.equal(requests.length, 1);
  await sender.flush();
  assert.equal(sender.sent, 52, "an explicit flush ends the pause");
});

test("an address that is none is refused", () => {
  for (const bad of ["127.0.0.1:8000", "ftp://x", ""]) {
    assert.throws(() => new Client(bad), /http:\/\/HOST:PORT/);
  }
});

async function until(condition) {
  for (let i = 0; i < 2000 && !condition(); i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(condition());
}
