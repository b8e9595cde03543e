/** Edits one fusion profile: its kind, its weights or its formula. */

import type { VNode } from "preact";
import { useState } from "preact/hooks";

import type { FieldError } from "../../api.ts";
import { Input, Select, Table, TextArea } from "../../parts/basic.tsx";
import type { FusionContent, Profile } from "../../types.ts";

interface Props {
  draft: FusionContent;
  onDraft: (draft: FusionContent) => void;
  tasks: readonly string[];
  errors: readonly FieldError[];
}

const KINDS = [
  ["weighted_sum", "weighted sum"],
  ["weighted_product", "weighted product"],
  ["formula", "formula"],
] as const;

export function ProfileEditor(props: Props): VNode {
  const { draft, onDraft, tasks } = props;
  const names = Object.keys(draft.profiles ?? {});
  const [selected, setSelected] = useState("default");
  const name = names.includes(selected) ? selected : (names[0] ?? "default");
  const profile = draft.profiles?.[name];
  const change = (fields: Partial<Profile>): void =>
    onDraft({ ...draft, profiles: { ...draft.profiles, [name]: { ...profile!, ...fields } } });
  const scenes = Object.entries(draft.scenes ?? {}).filter(([, used]) => used === name);
  return (
    <>
      <div class="row">
        <Select label="Profile" value={name} options={names} onInput={setSelected} />
        {profile && (
          <Select
            label="Kind"
            value={profile.kind}
            options={KINDS}
            onInput={(kind) => change(ofKind(kind as Profile["kind"], profile, tasks))}
          />
        )}
      </div>
      <p class="about">
        Used by {name === "default" ? "requests without a scene" : "no request without a scene"}
        {scenes.length > 0 && `, by ${scenes.map(([scene]) => scene).join(", ")}`}.
      </p>
      {profile && profile.kind === "formula" && (
        <Formula
          text={profile.formula ?? ""}
          onInput={(formula) => change({ formula })}
          error={props.errors.find((error) => error.field.startsWith(`profiles.${name}`))?.message ?? ""}
        />
      )}
      {profile && <WeightInputs profile={profile} tasks={tasks} onChange={(weights) => change({ weights })} />}
    </>
  );
}

/** The fields that change with the kind: a formula begins as the sum of the weights that there were. */
function ofKind(kind: Profile["kind"], profile: Profile, tasks: readonly string[]): Partial<Profile> {
  if (kind !== "formula") {
    const known = Object.entries(profile.weights ?? {}).filter(([task]) => tasks.includes(task));
    const weights = known.length > 0 ? Object.fromEntries(known) : Object.fromEntries(tasks.map((task) => [task, 1]));
    const { formula: _, missing: __, ...rest } = { ...profile, kind, weights };
    return { ...rest, formula: undefined, missing: undefined } as unknown as Partial<Profile>;
  }
  const terms = Object.entries(profile.weights ?? {}).map(([task, weight]) => `${weight} * ${task}`);
  return { kind, formula: terms.join(" + ") || tasks[0] || "1", weights: {}, bounds: {} };
}

/** The formula with a mark under the column that the service names. */
function Formula(props: { text: string; onInput: (text: string) => void; error: string }): VNode {
  const column = Number(/column (\d+)/.exec(props.error)?.[1] ?? 0);
  return (
    <>
      <TextArea
        label="Formula"
        hint="Task scores, the item's numbers and weights; + - * / **, one comparison, and functions such as log1p, min, where."
        value={props.text}
        onInput={props.onInput}
        rows={2}
      />
      {column > 0 && (
        <pre class="caret" aria-label={`The fault is at column ${column}`}>
          {`${props.text}\n${" ".repeat(column - 1)}^`}
        </pre>
      )}
    </>
  );
}

function WeightInputs(props: {
  profile: Profile;
  tasks: readonly string[];
  onChange: (weights: Record<string, number>) => void;
}): VNode {
  const { profile, tasks, onChange } = props;
  const weights = profile.weights ?? {};
  const free = tasks.filter((task) => !(task in weights));
  const without = (name: string) => Object.fromEntries(Object.entries(weights).filter(([one]) => one !== name));
  return (
    <>
      <Table
        caption="Weights"
        head={["Name", "Weight", "Actions"]}
        rows={Object.entries(weights).map(([name, weight]) => [
          name,
          <Input
            label={`Weight of ${name}`}
            type="number"
            value={String(weight)}
            onInput={(text) => text.trim() !== "" && onChange({ ...weights, [name]: Number(text) })}
          />,
          <button type="button" onClick={() => onChange(without(name))}>
            Remove<span class="unseen"> {name}</span>
          </button>,
        ])}
        empty="No weights."
      />
      {profile.kind !== "formula" && free.length > 0 && (
        <Select
          label="Add a task"
          value=""
          options={["", ...free]}
          onInput={(task) => task && onChange({ ...weights, [task]: 1 })}
        />
      )}
    </>
  );
}
