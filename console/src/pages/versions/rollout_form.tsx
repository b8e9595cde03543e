/** Changes the versions of a line: promote, percent, canary, shadow, roll back. */

import type { VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import { get } from "../../api.ts";
import { label } from "../../format.ts";
import { Input, Select } from "../../parts/basic.tsx";
import { ChangeForm, type Change } from "../../parts/change_form.tsx";
import type { LineVersions, Models, PastRollout, Rollout } from "../../types.ts";
import { DEFAULT_LINE, previousOf, targetOf, versionsContent, versionsOf } from "./rollout.ts";

type Action =
  "" | "promote" | "percent" | "canary" | "end-canary" | "stable" | "shadow" | "end-shadow" | "back" | "restore";

interface Choice {
  action: Action;
  version: string;
  percent: string;
  restored: PastRollout | null;
}

interface Props {
  models: Models;
  rollout: Rollout;
  line: string;
  /** A state of the history that somebody wants back. */
  restored: PastRollout | null;
  onChosen: () => void;
  reload: () => void;
}

const NOTHING: Choice = { action: "", version: "", percent: "5", restored: null };
const NEEDS_VERSION: readonly Action[] = ["canary", "stable", "shadow"];

export function RolloutForm(props: Props): VNode {
  const { models, rollout, line } = props;
  const [choice, setChoice] = useState<Choice>(NOTHING);
  const [base, setBase] = useState<Rollout>(rollout);
  const published = models.published.filter((version) => !version.problem).map(label);
  // Until something is chosen, the newest document is what a change starts from.
  const start = choice.action === "" ? rollout : base;
  const choose = (action: Action, restored: PastRollout | null = null): void => {
    if (choice.action === "" || action === "") {
      setBase(rollout);
    }
    setChoice({ ...choice, action, restored, version: choice.version || (published.at(-1) ?? "") });
  };
  useEffect(() => {
    if (props.restored !== null) {
      choose("restore", props.restored);
      props.onChosen();
    }
  }, [props.restored]);

  const versions = versionsOf(start, line)!;
  const planned = plannedOf(choice, start, line, versions);
  const actions: [Action, string][] = [
    ["", "Choose…"],
    ...(versions.canary
      ? ([
          ["promote", `Promote the canary ${label(versions.canary)}: all users get it`],
          ["percent", "Give the canary to another share of the users"],
          ["end-canary", "End the canary: its users get the stable version"],
        ] as [Action, string][])
      : []),
    ["canary", versions.canary ? "Start another canary" : "Start a canary"],
    ["stable", "Make a version stable"],
    ["shadow", "Score with a version in the background (shadow)"],
    ...(versions.shadow ? ([["end-shadow", "End the shadow"]] as [Action, string][]) : []),
    ["back", "Roll back to the state before"],
    ...(choice.restored ? ([["restore", `Restore revision ${choice.restored.revision}`]] as [Action, string][]) : []),
  ];
  return (
    <ChangeForm
      button={choice.action === "back" || choice.action === "restore" ? "Roll back" : "Make it live"}
      base={start}
      content={versionsContent}
      change={planned?.change ?? null}
      {...(planned?.after ? { after: contentAfter(start, line, planned.after) } : {})}
      read={readRollout}
      onDone={() => {
        setChoice(NOTHING);
        props.reload();
      }}
      onRebased={setBase}
    >
      <div class="row">
        <Select
          label="Change"
          value={choice.action}
          options={actions}
          onInput={(action) => choose(action as Action, choice.restored)}
        />
        {NEEDS_VERSION.includes(choice.action) && (
          <Select
            label="Version"
            value={choice.version}
            options={published}
            onInput={(version) => setChoice({ ...choice, version })}
          />
        )}
        {(choice.action === "canary" || choice.action === "percent") && (
          <Input
            label="Percent of the users"
            type="number"
            value={choice.percent}
            onInput={(percent) => setChoice({ ...choice, percent })}
          />
        )}
      </div>
      {rollout.revision !== start.revision && (
        <p class="note">
          {rollout.author || "Somebody"} has written revision {rollout.revision} meanwhile; this change starts from{" "}
          {start.revision} and would be refused.{" "}
          <button type="button" onClick={() => setBase(rollout)}>
            Start from it
          </button>
        </p>
      )}
    </ChangeForm>
  );
}

async function readRollout(): Promise<Rollout> {
  const { rollout, problem } = await get<Models>("/models");
  if (rollout === null) {
    throw new Error(problem ?? "There is no rollout document.");
  }
  return rollout;
}

/** The call of a choice, and the versions of the line after it. Null until the choice is complete. */
function plannedOf(
  choice: Choice,
  rollout: Rollout,
  line: string,
  versions: LineVersions,
): { change: Change; after: LineVersions | undefined } | null {
  const named = line === DEFAULT_LINE ? {} : { line };
  const put = (fields: Partial<LineVersions>): { change: Change; after: LineVersions } => ({
    change: { method: "PUT", path: "/models/rollout", body: { ...named, ...fields } },
    after: { ...versions, ...fields },
  });
  const back = (body: Record<string, unknown>, after: PastRollout | undefined) => ({
    change: { method: "POST" as const, path: "/models/rollback", body: { ...named, ...body } },
    after: after && versionsOf(after, line),
  });
  const { canary } = versions;
  const percent = Number(choice.percent);
  const valid = choice.percent.trim() !== "" && percent >= 0 && percent <= 100;
  const target = targetOf(choice.version);
  switch (choice.action) {
    case "promote":
      return canary && put({ stable: { name: canary.name, version: canary.version }, canary: null });
    case "percent":
      return canary && valid ? put({ canary: { ...canary, percent } }) : null;
    case "canary":
      return choice.version && valid ? put({ canary: { ...target, percent } }) : null;
    case "end-canary":
      return put({ canary: null });
    case "stable":
      return choice.version ? put({ stable: target }) : null;
    case "shadow":
      return choice.version ? put({ shadow: target }) : null;
    case "end-shadow":
      return put({ shadow: null });
    case "back":
      return back({}, previousOf(rollout, line));
    case "restore":
      return choice.restored && back({ to: choice.restored.revision }, choice.restored);
    default:
      return null;
  }
}

function contentAfter(rollout: Rollout, line: string, after: LineVersions): unknown {
  if (line === DEFAULT_LINE) {
    return versionsContent({ ...rollout, ...after });
  }
  return versionsContent({ ...rollout, lines: { ...rollout.lines, [line]: { ...rollout.lines?.[line], ...after } } });
}
