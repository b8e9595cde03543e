/** Tests how a request is written in the address, and the order that other weights give. */

import assert from "node:assert/strict";
import test from "node:test";

import {
  NONE,
  askedOf,
  askedOfBody,
  bodyOf,
  callOf,
  choiceFields,
  choiceOf,
  movableWeights,
  otherCallOf,
  otherOf,
  reweighted,
} from "../src/pages/try/request.ts";
import type { Ranking } from "../src/types.ts";

const RANKING: Ranking = {
  request_id: "r",
  model: { name: "m", version: "1", role: "stable" },
  fusion: { profile: "default", revision: 1 },
  degraded: [],
  coverage: { requested: 3, scored: 3 },
  ranking: [
    { item_id: "a", rank: 1, score: 0.9, predictions: { pctr: 0.9, pcvr: 0.1 } },
    { item_id: "b", rank: 2, score: 0.5, predictions: { pctr: 0.5, pcvr: 0.4 } },
    { item_id: "c", rank: 3, score: 0.5, predictions: { pctr: 0.5, pcvr: 0.4 } },
  ],
};
const order = (ranking: Ranking | null): string[] | undefined => ranking?.ranking.map((item) => item.item_id);

test("a logged request is the same request after its way through the address", () => {
  const logged = { user_id: "7", candidates: ["1", "2"], scene: "home", timestamp: 5, explain: false, request_id: "x" };
  const asked = askedOfBody(JSON.stringify(logged));
  const again = askedOf(new URLSearchParams({ ...asked }));
  assert.deepEqual(bodyOf(again), { user_id: "7", candidates: ["1", "2"], scene: "home", timestamp: 5, explain: true });
});

test("candidates with values, and ids with spaces, stay JSON", () => {
  for (const candidates of [[{ item_id: "1", features: { tag: "2" } }], ["a b", "c,d"], ["[x"]]) {
    assert.deepEqual(bodyOf(askedOfBody(JSON.stringify({ user_id: "7", candidates }))).candidates, candidates);
  }
});

test("what is no request is refused with a reason", () => {
  assert.throws(() => askedOfBody("{"), /not JSON/);
  assert.throws(() => askedOfBody("[]"), /object/);
  assert.throws(() => askedOfBody('{"user_id": 7}'), /user_id and candidates/);
  assert.throws(() => bodyOf({ user: "7", items: "1", scene: "", more: "{tab: 1}" }), /not JSON/);
});

test("other weights give another order; equal scores keep theirs; a formula is the service's", () => {
  const sum = { kind: "weighted_sum", weights: { pctr: 1 } } as const;
  assert.deepEqual(order(reweighted(RANKING, sum, { pctr: 0.1, pcvr: 5 })), ["b", "c", "a"]);
  assert.equal(reweighted(RANKING, sum, { pctr: 2 })?.ranking[0]?.score, 1.8);
  const product = { kind: "weighted_product", weights: { pctr: 1, pcvr: 1 } } as const;
  assert.deepEqual(order(reweighted(RANKING, product, {})), ["b", "c", "a"]);
  assert.equal(reweighted(RANKING, { kind: "formula", formula: "pctr" }, {}), null);
});

test("the limits of a weight are the operator's, and weights without limits are not moved where others have some", () => {
  const weights = { pctr: 1, pcvr: 10 };
  assert.deepEqual(
    movableWeights({ kind: "weighted_sum", weights }).map((one) => [one.name, one.min, one.max]),
    [
      ["pctr", 0, 2],
      ["pcvr", 0, 20],
    ],
  );
  const bounds = { pcvr: { min: 5, max: 15 } };
  assert.deepEqual(movableWeights({ kind: "weighted_sum", weights, bounds }), [
    { name: "pcvr", weight: 10, min: 5, max: 15 },
  ]);
});

test("a choice and what stands beside it are the same after their way through the address", () => {
  const asked = { user: "7", items: "1", scene: "home", more: "" };
  const choice = { version: "m/2", profile: "clicks", rules: NONE };
  const beside = { version: "", profile: "", rules: "first" };
  const fields = { ...asked, ...choiceFields(choice, "by_"), other: NONE, ...choiceFields(beside, "") };
  const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== ""));
  assert.deepEqual(choiceOf(query, "by_"), choice);
  assert.deepEqual(otherOf(query), { scene: NONE, ...beside });
  assert.equal(otherOf(new URLSearchParams({ user: "7", by_profile: "clicks" })), null);
});

test("only a choice is a preview; without rules is an empty name", () => {
  const asked = { user: "7", items: "1", scene: "home", more: "" };
  const nothing = { version: "", profile: "", rules: "" };
  assert.equal(callOf(asked, nothing).path, "/rank");
  const by = callOf(asked, { ...nothing, profile: "clicks", rules: NONE });
  assert.equal(by.path, "/rank/preview");
  const body = { user_id: "7", candidates: ["1"], scene: "home", explain: true };
  assert.deepEqual(by.body, { ...body, profile: "clicks", rules: "" });
  const { scene: _, ...without } = body;
  assert.deepEqual(otherCallOf(asked, { ...nothing, scene: NONE }), { path: "/rank", body: without });
  assert.deepEqual(otherCallOf(asked, { ...nothing, scene: "" }).body, body);
});
