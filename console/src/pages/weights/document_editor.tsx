/** Edits a document: what is typed is checked, its effect on recent requests shown, and then it is signed and sent. */

import type { VNode } from "preact";
import { useState } from "preact/hooks";

import { Problem, type FieldError } from "../../api.ts";
import { ProblemView, Section, TextArea } from "../../parts/basic.tsx";
import { ChangeForm } from "../../parts/change_form.tsx";
import { History } from "../../parts/history.tsx";
import type { Signed } from "../../types.ts";
import { useData } from "../../use_data.ts";
import { Effect, usePreview } from "./effect.tsx";

interface Props<State, Content> {
  path: "/fusion" | "/rules";
  title: string;
  read: () => Promise<State>;
  contentOf: (document: State) => Content;
  children: (
    draft: Content,
    onDraft: (draft: Content) => void,
    document: State,
    errors: readonly FieldError[],
  ) => VNode;
}

export function DocumentEditor<State extends Signed & { history?: readonly unknown[] }, Content extends object>(
  props: Props<State, Content>,
): VNode {
  const document = useData(props.read, []);
  if (document.value === undefined) {
    return document.error ? <ProblemView error={document.error} /> : <p>Reading the {props.title}…</p>;
  }
  return <Editor {...props} document={document.value} reload={document.reload} />;
}

function Editor<State extends Signed & { history?: readonly unknown[] }, Content extends object>(
  props: Props<State, Content> & { document: State; reload: () => void },
): VNode {
  const { path, title, contentOf, document } = props;
  const [rebased, setRebased] = useState<State | null>(null);
  // A newer document is not what the draft began from, until somebody says so.
  const [first, setFirst] = useState(document);
  const base = rebased ?? first;
  const [text, setText] = useState<string | null>(null);
  const [restored, setRestored] = useState<State | null>(null);
  const present = JSON.stringify(contentOf(base), null, 2);
  const typed = text ?? present;
  const [draft, syntax] = parsed<Content>(typed);
  const changed = draft !== null && JSON.stringify(draft) !== JSON.stringify(contentOf(base));
  const preview = usePreview(`${path}/preview`, restored ? contentOf(restored) : draft);
  const errors = preview.error instanceof Problem ? preview.error.errors : [];
  const start = (newest: State): void => {
    setFirst(newest);
    setRebased(null);
    setText(null);
    setRestored(null);
  };
  const change = restored
    ? ({ method: "POST", path: `${path}/rollback`, body: { to: restored.revision } } as const)
    : ({ method: "PUT", path, body: draft as Record<string, unknown> } as const);
  return (
    <>
      <Section
        title={`The ${title}`}
        about={`Revision ${base.revision}${base.author ? ` by ${base.author}` : ""}${base.reason ? ` (“${base.reason}”)` : ""}.`}
      >
        {draft && props.children(draft, (next) => setText(JSON.stringify(next, null, 2)), base, errors)}
        <details>
          <summary>The whole document as JSON</summary>
          <TextArea label={`The ${title} (JSON)`} value={typed} onInput={setText} rows={18} />
        </details>
        {syntax && (
          <p class="problem" role="alert">
            {syntax}
          </p>
        )}
        <ProblemView error={preview.error} />
        {text !== null && (
          <button type="button" onClick={() => setText(null)}>
            Drop what was typed
          </button>
        )}
      </Section>
      <Effect preview={preview} isChanged={changed || restored !== null} />
      <Section title="Make it hold">
        {restored && (
          <p class="note">
            Revision {restored.revision} will be restored.{" "}
            <button type="button" onClick={() => setRestored(null)}>
              Do not
            </button>
          </p>
        )}
        <ChangeForm
          button={restored ? "Roll back" : "Make it hold"}
          base={base}
          content={contentOf}
          change={restored || (changed && errors.length === 0) ? change : null}
          after={restored ? contentOf(restored) : changed ? draft : undefined}
          read={props.read}
          onDone={start}
          onRebased={setRebased}
        />
      </Section>
      <Section title="History" about={`${base.history?.length ?? 0} earlier states are kept.`}>
        <History
          title={`Revisions of the ${title}`}
          states={[base, ...((base.history ?? []) as State[])]}
          content={contentOf}
          onRestore={setRestored}
        />
      </Section>
    </>
  );
}

function parsed<Content>(text: string): [Content | null, string] {
  try {
    return [JSON.parse(text) as Content, ""];
  } catch (error) {
    return [null, `This is not JSON: ${(error as Error).message}`];
  }
}
