/** Shows what differs between two documents. */

import type { VNode } from "preact";

import { diffOf, shortened } from "../diff.ts";

const SIGNS = { same: " ", removed: "-", added: "+" } as const;
const WORDS = { same: "", removed: "removed: ", added: "added: " } as const;

export function DiffView(props: { label: string; before: unknown; after: unknown }): VNode {
  const lines = shortened(diffOf(props.before, props.after));
  if (lines.length === 0) {
    return <p class="empty">No difference.</p>;
  }
  return (
    <div class="diff" role="region" aria-label={props.label} tabIndex={0}>
      {lines.map((line, place) =>
        line === null ? (
          <div key={place} class="gap">
            …
          </div>
        ) : (
          <div key={place} class={line.kind}>
            <span aria-hidden="true">{SIGNS[line.kind]} </span>
            <span class="unseen">{WORDS[line.kind]}</span>
            {line.text}
          </div>
        ),
      )}
    </div>
  );
}
