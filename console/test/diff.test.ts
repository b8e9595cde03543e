/** Tests the comparison of documents. */

import assert from "node:assert/strict";
import test from "node:test";

import { diffOf, diffOfLines, shortened } from "../src/diff.ts";

const text = (lines: readonly ({ kind: string; text: string } | null)[]): string[] =>
  lines.map((line) =>
    line === null ? "…" : `${{ same: " ", removed: "-", added: "+" }[line.kind]}${line.text.trim()}`,
  );

test("removed and added lines make one document of the other", () => {
  const before = ["a", "b", "c", "d", "e"];
  const after = ["a", "c", "x", "d", "f", "e"];
  const lines = diffOfLines(before, after);
  assert.deepEqual(text(lines), [" a", "-b", " c", "+x", " d", "+f", " e"]);
  assert.deepEqual(
    lines.filter((line) => line.kind !== "added").map((line) => line.text),
    before,
  );
  assert.deepEqual(
    lines.filter((line) => line.kind !== "removed").map((line) => line.text),
    after,
  );
});

test("the order of names is no difference, that of lists is", () => {
  assert.deepEqual(shortened(diffOf({ a: 1, b: { c: 2, d: 3 } }, { b: { d: 3, c: 2 }, a: 1 })), []);
  assert.deepEqual(text(diffOf([1, 2], [2, 1])), [" [", "-1", " 2", "+1", " ]"]);
});

test("an absent document is empty, and equal lines far from a difference are left out", () => {
  assert.deepEqual(text(diffOf(undefined, 1)), ["+1"]);
  const many = Array.from({ length: 20 }, (_, place) => place);
  const lines = text(
    shortened(
      diffOf(
        many,
        many.map((value) => (value === 10 ? 99 : value)),
      ),
    ),
  );
  assert.deepEqual(lines, ["…", " 8", " 9", "-10", "+99", " 11", " 12", "…"]);
});

test("documents that differ in too many lines for the table are replaced whole", () => {
  const before = Array.from({ length: 2001 }, (_, place) => `a${place}`);
  const lines = diffOfLines(before, ["x", "a7", "y"]);
  assert.equal(lines.length, 2004);
  assert.equal(lines.filter((line) => line.kind === "same").length, 0);
});
