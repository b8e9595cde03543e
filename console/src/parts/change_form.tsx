/** Signs and sends a change of a document, and shows what happened if somebody else changed it meanwhile. */

import type { ComponentChildren, VNode } from "preact";
import { useState } from "preact/hooks";

import { Problem, send } from "../api.ts";
import { author, keepAuthor, session } from "../session.ts";
import type { Served, Signed } from "../types.ts";
import { Input, ProblemView } from "./basic.tsx";
import { DiffView } from "./diff_view.tsx";

const MOST_READS = 20;
const PAUSE_MS = 250;

export interface Change {
  method: "POST" | "PUT";
  path: string;
  /** Without author, reason and revision, which this form adds. */
  body: Record<string, unknown>;
}

interface Props<State extends Signed> {
  button: string;
  /** The document that the change was made from; the service refuses it if there is a newer one. */
  base: State;
  /** The part of a document that a person changes, for the comparison. */
  content: (document: State) => unknown;
  change: Change | null;
  /** The content after the change, where the page knows it. */
  after?: unknown;
  read: () => Promise<State>;
  /** Called with the document that the service wrote. A worker that answers the next read may not follow it yet. */
  onDone: (written: State) => void;
  /** Called with the newest document, if somebody else had changed it and the change is to start from it. */
  onRebased: (document: State) => void;
  children?: ComponentChildren;
}

type Outcome<State> =
  | { kind: "none" }
  | { kind: "sending" }
  | { kind: "done"; revision: number; served: Served }
  | { kind: "problem"; error: Error }
  | { kind: "overtaken"; newest: State };

export function ChangeForm<State extends Signed>(props: Props<State>): VNode {
  const { role } = session.use();
  const [name, setName] = useState(author());
  const [reason, setReason] = useState("");
  const [outcome, setOutcome] = useState<Outcome<State>>({ kind: "none" });
  const { change } = props;

  const submit = async (): Promise<void> => {
    if (change === null || outcome.kind === "sending") {
      return;
    }
    keepAuthor(name);
    setOutcome({ kind: "sending" });
    const body = { ...change.body, author: name, reason, revision: props.base.revision };
    try {
      const answer = await send<State & Served>(change.method, change.path, body);
      setReason("");
      setOutcome({ kind: "done", revision: answer.revision, served: answer });
      props.onDone({ ...props.base, ...answer });
    } catch (error) {
      setOutcome(await outcomeOf(error as Error, props.base, props.read));
    }
  };

  if (role !== "operate") {
    return <p class="note">To change something, use a key with the role operate. This one may only look.</p>;
  }
  return (
    <form
      class="change"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      {props.children}
      {change !== null && props.after !== undefined && (
        <DiffView label="What the change does" before={props.content(props.base)} after={props.after} />
      )}
      <div class="row">
        <Input label="Your name" value={name} onInput={setName} required />
        <Input label="Reason" value={reason} onInput={setReason} required />
        <button type="submit" class="main" disabled={change === null || outcome.kind === "sending"}>
          {outcome.kind === "sending" ? "Sending…" : props.button}
        </button>
      </div>
      <div aria-live="polite">
        <OutcomeView
          outcome={outcome}
          props={props}
          onTaken={(newest) => {
            setOutcome({ kind: "none" });
            props.onRebased(newest);
          }}
        />
      </div>
    </form>
  );
}

/** A conflict is shown with the newest document; other problems as they are. */
async function outcomeOf<State extends Signed>(
  error: Error,
  base: State,
  read: () => Promise<State>,
): Promise<Outcome<State>> {
  // Other conflicts name no revision: a version that does not fit the weights, for example.
  if (error instanceof Problem && error.status === 409 && error.detail.includes("at revision")) {
    for (let reads = 0; reads < MOST_READS; reads++) {
      try {
        const newest = await read();
        if (newest.revision !== base.revision) {
          return { kind: "overtaken", newest };
        }
      } catch {
        break; // the first error says more than the second
      }
      // The worker that answered does not follow the newest document yet.
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
  return { kind: "problem", error };
}

function OutcomeView<State extends Signed>({
  outcome,
  props,
  onTaken,
}: {
  outcome: Outcome<State>;
  props: Props<State>;
  onTaken: (newest: State) => void;
}): VNode | null {
  switch (outcome.kind) {
    case "done":
      return (
        <div class={outcome.served.served.state === "refused" ? "problem" : "done"} role="status">
          Revision {outcome.revision}: {outcome.served.served.state}. {outcome.served.served.detail}
          {outcome.served.warnings?.map((warning) => (
            <p key={warning}>{warning}</p>
          ))}
        </div>
      );
    case "problem":
      return <ProblemView error={outcome.error} />;
    case "overtaken": {
      const { newest } = outcome;
      return (
        <div class="problem" role="alert">
          <strong>
            Somebody else changed this: it is at revision {newest.revision}, and you began from {props.base.revision}.
          </strong>
          <p>
            {newest.author || "Somebody"} wrote revision {newest.revision}
            {newest.reason ? `: “${newest.reason}”` : ""}. Nothing of yours was written. What is different now:
          </p>
          <DiffView
            label="What somebody else changed"
            before={props.content(props.base)}
            after={props.content(newest)}
          />
          <button type="button" onClick={() => onTaken(newest)}>
            Continue from revision {newest.revision}
          </button>
        </div>
      );
    }
    default:
      return null;
  }
}
