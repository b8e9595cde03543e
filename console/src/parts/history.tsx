/** The earlier states of a document: who, when, why, and what each changed. */

import type { VNode } from "preact";
import { useState } from "preact/hooks";

import type { Signed } from "../types.ts";
import { Table, Time } from "./basic.tsx";
import { DiffView } from "./diff_view.tsx";

export function History<State extends Signed>(props: {
  title: string;
  /** The present state and the earlier ones, newest first. */
  states: readonly State[];
  content: (state: State) => unknown;
  summary?: (state: State) => string;
  onRestore?: ((state: State) => void) | undefined;
}): VNode {
  const [opened, setOpened] = useState<number | null>(null);
  const place = props.states.findIndex((state) => state.revision === opened);
  const state = props.states[place];
  const before = props.states[place + 1];
  const rows = props.states.map((entry, index) => [
    `${entry.revision}${index === 0 ? " (now)" : entry.withdrawn ? " (withdrawn)" : ""}`,
    ...(props.summary ? [props.summary(entry)] : []),
    entry.author ?? "",
    entry.reason ?? "",
    <Time at={entry.written_at} />,
    <span class="buttons">
      <button
        type="button"
        aria-expanded={opened === entry.revision}
        onClick={() => setOpened(opened === entry.revision ? null : entry.revision)}
      >
        Changes<span class="unseen"> of revision {entry.revision}</span>
      </button>
      {index > 0 && props.onRestore && (
        <button type="button" onClick={() => props.onRestore?.(entry)}>
          Restore<span class="unseen"> revision {entry.revision}</span>…
        </button>
      )}
    </span>,
  ]);
  const head = ["Revision", ...(props.summary ? ["State"] : []), "Author", "Reason", "Written", "Actions"];
  return (
    <>
      <Table caption={props.title} head={head} rows={rows} empty="Nobody has changed it yet." />
      {state && (
        <>
          <h3>
            Revision {state.revision}
            {before ? ` against ${before.revision}` : ", the oldest that is kept"}
          </h3>
          <DiffView
            label={`Changes of revision ${state.revision}`}
            before={before && props.content(before)}
            after={props.content(state)}
          />
        </>
      )}
    </>
  );
}
