/** Says why an item stands where it does: each input's part, the rules that moved it, and the item above it. */

import type { VNode } from "preact";

import { number } from "../../format.ts";
import { Table } from "../../parts/basic.tsx";
import { link } from "../../route.ts";
import type { Part, RankedItem, Ranking } from "../../types.ts";

export function WhyHere(props: { item: RankedItem; ranking: Ranking }): VNode {
  const { item, ranking } = props;
  const items = ranking.ranking;
  const above = items[items.indexOf(item) - 1];
  const rows = Object.entries(item.explain ?? {}).map(([name, part]) => [
    name,
    number(part.score ?? part.value),
    number(part.weight),
    number(part.part),
    number(part.log_part),
    ...(above ? [number(above.explain?.[name]?.part)] : []),
  ]);
  return (
    <div class="why" role="region" aria-label={`Item ${item.item_id}`}>
      <h3>
        Item {item.item_id} is at place {item.rank} of {items.length}
      </h3>
      <p>{sentenceOf(item, above)}</p>
      {rows.length > 0 && (
        <Table
          caption="What makes its score"
          head={["Input", "Value", "Weight", "Part", "Log of the part", ...(above ? [`Part of ${above.item_id}`] : [])]}
          rows={rows}
          numbers={[1, 2, 3, 4, 5]}
        />
      )}
      {(item.moved_by ?? []).map((move) => (
        <p key={move.rule}>
          The rule {move.rule} moved it from {move.from ?? "outside of the answer"} to{" "}
          {move.to ?? "outside of the answer"}.
        </p>
      ))}
      <p>
        <a href={link("store", { kind: "items", id: item.item_id })}>What the store has of it</a>
      </p>
    </div>
  );
}

function sentenceOf(item: RankedItem, above: RankedItem | undefined): string {
  if (above === undefined) {
    return `Its score ${number(item.score)} is the highest, or a rule put it first.`;
  }
  const scores = `Its score is ${number(item.score)}; ${above.item_id} above it has ${number(above.score)}.`;
  if ((item.score ?? 0) > (above.score ?? 0)) {
    return `${scores} A rule, and not the score, has put it below.`;
  }
  const name = largestGap(item.explain ?? {}, above.explain ?? {});
  if (name === undefined) {
    return scores;
  }
  return `${scores} They differ most in ${name}: ${number(item.predictions[name] ?? item.explain?.[name]?.value)} against ${number(
    above.predictions[name] ?? above.explain?.[name]?.value,
  )}.`;
}

/** The input by which the item above is furthest ahead; undefined if it is ahead in none. */
function largestGap(mine: Record<string, Part>, theirs: Record<string, Part>): string | undefined {
  const size = (part: Part | undefined): number => part?.log_part ?? part?.part ?? 0;
  const gaps = Object.keys(mine).map((name) => [name, size(theirs[name]) - size(mine[name])] as const);
  const [name, gap] = gaps.sort(([, a], [, b]) => b - a)[0] ?? ["", 0];
  return gap > 0 ? name : undefined;
}
