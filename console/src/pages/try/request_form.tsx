/** Asks for the user, the candidates and the scene of a ranking. */

import type { VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import { Input, ProblemView, Section, Select, TextArea } from "../../parts/basic.tsx";
import { askedOfBody, bodyOf, type Asked } from "./request.ts";

export function RequestForm(props: {
  asked: Asked;
  scenes: readonly string[];
  onAsked: (asked: Asked) => void;
}): VNode {
  const { asked } = props;
  const [draft, setDraft] = useState(asked);
  const [body, setBody] = useState("");
  const [error, setError] = useState<Error | undefined>(undefined);
  useEffect(() => setDraft(asked), [asked.user, asked.items, asked.scene, asked.more]);
  const change = (field: keyof Asked) => (value: string) => setDraft({ ...draft, [field]: value });
  const submit = (): void => {
    try {
      bodyOf(draft);
      setError(undefined);
      props.onAsked(draft);
    } catch (problem) {
      setError(problem as Error);
    }
  };
  return (
    <Section
      title="Request"
      about="The address of this page has the whole request: copy it to show somebody the same ranking."
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          submit();
        }}
      >
        <div class="row">
          <Input label="User id" value={draft.user} onInput={change("user")} required />
          <Select
            label="Scene"
            value={draft.scene}
            options={[["", "none"], ...withPresent(props.scenes, draft.scene)]}
            onInput={change("scene")}
          />
        </div>
        <TextArea
          label="Candidates"
          hint="Item ids with spaces between them, or a JSON list as /rank takes it."
          value={draft.items}
          onInput={change("items")}
        />
        <TextArea
          label="Further fields (JSON)"
          hint='For example {"context": {"tab": 1, "hour": 20}, "timestamp": 1652025600000, "top_k": 50}'
          rows={2}
          value={draft.more}
          onInput={change("more")}
        />
        <button type="submit" class="main">
          Rank
        </button>
      </form>
      <details>
        <summary>Take a logged request</summary>
        <TextArea label="Body of a request to /rank (JSON)" value={body} onInput={setBody} rows={3} />
        <button
          type="button"
          onClick={() => {
            try {
              setDraft(askedOfBody(body));
              setError(undefined);
            } catch (problem) {
              setError(problem as Error);
            }
          }}
        >
          Fill in
        </button>
      </details>
      <ProblemView error={error} />
    </Section>
  );
}

/** A scene of the address may be one that no document names. */
function withPresent(scenes: readonly string[], scene: string): readonly string[] {
  return scene === "" || scenes.includes(scene) ? scenes : [...scenes, scene];
}
