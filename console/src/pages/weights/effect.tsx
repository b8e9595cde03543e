/** What a document would change on the newest requests of a worker. */

import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { send } from "../../api.ts";
import { count, label, number, percent } from "../../format.ts";
import { Section, Table } from "../../parts/basic.tsx";
import type { Target } from "../../types.ts";

const PAUSE_MS = 350; // after the last key

interface VersionEffect extends Target {
  line: string;
  role: string;
  n: number;
  changed_share: number | null;
  moved_share: number | null;
  unchanged_requests: number;
  empty: number;
  tasks: readonly { task: string; before: number | null; after: number | null; n_before: number; n_after: number }[];
}

interface Answer {
  pid: number;
  requests: number;
  candidates: number;
  warnings: readonly string[];
  versions: readonly VersionEffect[];
}

export interface Preview {
  answer: Answer | null;
  error: Error | undefined;
  isPending: boolean;
}

/** Ask what a draft would change, some time after the last key was pressed. */
export function usePreview(path: string, draft: object | null): Preview {
  const [preview, setPreview] = useState<Preview>({ answer: null, error: undefined, isPending: false });
  const newest = useRef(0);
  const text = JSON.stringify(draft);
  useEffect(() => {
    const turn = ++newest.current;
    if (draft === null) {
      return undefined;
    }
    setPreview((before) => ({ ...before, isPending: true }));
    const timer = setTimeout(() => {
      send<Answer>("POST", path, draft).then(
        (answer) => turn === newest.current && setPreview({ answer, error: undefined, isPending: false }),
        (error: Error) => turn === newest.current && setPreview({ answer: null, error, isPending: false }),
      );
    }, PAUSE_MS);
    return () => clearTimeout(timer);
  }, [path, text]);
  return preview;
}

export function Effect(props: { preview: Preview; isChanged: boolean }): VNode {
  const { answer, error, isPending } = props.preview;
  const about = answer
    ? `On the newest ${count(answer.requests)} requests (${count(answer.candidates)} candidates) of the worker ${answer.pid}.`
    : undefined;
  return (
    <Section title="Effect on recent requests" about={about}>
      <p role="status">
        {isPending
          ? "Checking…"
          : error
            ? "Not valid, see above."
            : props.isChanged
              ? "Valid."
              : "Nothing is changed yet."}
      </p>
      {answer?.warnings.map((warning) => (
        <p key={warning} class="note">
          {warning}
        </p>
      ))}
      {answer && (
        <>
          <Table
            caption="Top 10 of the compared requests (n)"
            head={[
              "Version",
              "Role",
              "n",
              "Items that leave it",
              "Places with another item",
              "Requests unchanged",
              "Empty",
            ]}
            rows={answer.versions.map((one) => [
              label(one),
              one.line === "default" ? one.role : `${one.role} of ${one.line}`,
              count(one.n),
              percent(one.changed_share),
              percent(one.moved_share),
              count(one.unchanged_requests),
              count(one.empty),
            ])}
            numbers={[2, 3, 4, 5, 6]}
            empty="No version is loaded."
          />
          <Table
            caption="Mean of each task in the top 10 (n: items)"
            head={["Task", "Version", "Before", "After", "Change", "n before", "n after"]}
            rows={answer.versions.flatMap((one) =>
              one.tasks.map((task) => [
                task.task,
                label(one),
                number(task.before),
                number(task.after),
                task.before ? percent((task.after ?? 0) / task.before - 1) : "–",
                count(task.n_before),
                count(task.n_after),
              ]),
            )}
            numbers={[2, 3, 4, 5, 6]}
            empty="There are no recent requests to compare."
          />
        </>
      )}
    </Section>
  );
}
