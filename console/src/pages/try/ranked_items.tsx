/** The items of a ranking: score, task scores, and for one of them why it stands at its place. */

import type { VNode } from "preact";
import { useState } from "preact/hooks";

import { count, number } from "../../format.ts";
import { Input, Table } from "../../parts/basic.tsx";
import type { RankedItem, Ranking } from "../../types.ts";
import { WhyHere } from "./why_here.tsx";

const SHOWN = 100;

export function RankedItems(props: { ranking: Ranking; ranksBeside: Map<string, number> | null }): VNode {
  const { ranksBeside } = props;
  const items = props.ranking.ranking;
  const [all, setAll] = useState(false);
  const [opened, setOpened] = useState("");
  const [searched, setSearched] = useState("");
  const tasks = Object.keys(items[0]?.predictions ?? {});
  const chosen = items.find((item) => item.item_id === (searched.trim() || opened));
  const rows = items.slice(0, all ? items.length : SHOWN).map((item) => [
    item.rank,
    <button
      type="button"
      class="plain"
      aria-pressed={item === chosen}
      onClick={() => {
        setSearched("");
        setOpened(item === chosen ? "" : item.item_id);
      }}
    >
      {item.item_id}
    </button>,
    number(item.score),
    ...tasks.map((task) => number(item.predictions[task])),
    <Parts item={item} />,
    (item.moved_by ?? []).map((move) => move.rule).join(", "),
    ...(ranksBeside ? [<Moved rank={item.rank} before={ranksBeside.get(item.item_id)} />] : []),
  ]);
  const head = [
    "Rank",
    "Item",
    "Score",
    ...tasks,
    "Parts of the score",
    "Moved by",
    ...(ranksBeside ? ["Beside"] : []),
  ];
  return (
    <>
      <Input label="Why is this item where it is? (item id)" value={searched} onInput={setSearched} />
      {searched.trim() && !chosen && (
        <p class="note" role="status">
          {searched} is not in this ranking: it was no candidate, top_k cut it off, or a rule removed it.
        </p>
      )}
      {chosen && <WhyHere item={chosen} ranking={props.ranking} />}
      <Table
        caption={`Ranking of ${count(items.length)} items`}
        head={head}
        rows={rows}
        numbers={[0, 2, ...tasks.map((_, place) => 3 + place)]}
        empty="The ranking is empty: rules removed every candidate."
      />
      {items.length > SHOWN && (
        <button type="button" onClick={() => setAll(!all)}>
          {all ? `Show the first ${SHOWN}` : `Show all ${count(items.length)}`}
        </button>
      )}
    </>
  );
}

/** How much each input has in the score, as a bar of the whole. */
function Parts(props: { item: RankedItem }): VNode | null {
  const parts = Object.entries(props.item.explain ?? {}).map(
    ([name, part]) => [name, Math.abs(part.log_part ?? part.part ?? 0)] as const,
  );
  const total = parts.reduce((sum, [, size]) => sum + size, 0);
  if (total === 0) {
    return null;
  }
  const text = parts.map(([name, size]) => `${name} ${Math.round((100 * size) / total)} %`).join(", ");
  return (
    <span class="parts" role="img" aria-label={text} title={text}>
      {parts.map(([name, size], place) => (
        <span key={name} class={`part${place % 6}`} style={{ width: `${(100 * size) / total}%` }} />
      ))}
    </span>
  );
}

function Moved(props: { rank: number; before: number | undefined }): VNode {
  const { rank, before } = props;
  if (before === undefined) {
    return <span>not there</span>;
  }
  const by = before - rank;
  const text = by === 0 ? "same" : by > 0 ? `▲ ${by}` : `▼ ${-by}`;
  return (
    <span class={by > 0 ? "up" : by < 0 ? "down" : ""}>
      {before} <span>{text}</span>
    </span>
  );
}
