/** The published versions, and everything that is known about one of them. */

import type { VNode } from "preact";

import { get } from "../../api.ts";
import { count, label, number } from "../../format.ts";
import { ProblemView, Section, Table, Time } from "../../parts/basic.tsx";
import { go, link } from "../../route.ts";
import type { Gate, Models } from "../../types.ts";
import { useData } from "../../use_data.ts";
import { targetOf } from "./rollout.ts";

interface Task {
  name: string;
  kind: string;
  label: string;
  space: string;
}

interface Manifest {
  tasks: readonly Task[];
  metrics: Record<string, Record<string, unknown>>;
  parity: { tolerance: number; max_abs_difference: number; candidates: number[]; behaviours: number[] };
  provenance: unknown;
}

interface Version {
  problem: string | null;
  manifest: Manifest | null;
  places: readonly { line: string; role: string; percent: number | null }[];
  workers: readonly { pid: number; role: string | null; line: string; gate: Gate | null }[];
}

export function Published(props: { models: Models; selected: string; line: string }): VNode {
  const { models, selected, line } = props;
  const rows = models.published.map((version) => [
    <a href={link("versions", { line: line === "default" ? "" : line, version: label(version) })}>{label(version)}</a>,
    <Time at={version.created_at} />,
    version.problem ?? version.architecture ?? "",
    (version.tasks ?? []).map((task) => task.name).join(", "),
    version.fingerprint ?? "",
  ]);
  return (
    <>
      <Section title="Published" about={`${count(models.published.length)} versions in the registry.`}>
        <Table
          caption="Published versions"
          head={["Version", "Created", "Architecture", "Tasks", "Schema"]}
          rows={rows}
          empty="Nothing is published; `funnelrank export` does it."
        />
      </Section>
      {selected && <Details key={selected} version={selected} />}
    </>
  );
}

function Details(props: { version: string }): VNode {
  const { name, version } = targetOf(props.version);
  const path = `/models/${encodeURIComponent(name)}/${encodeURIComponent(version)}`;
  const details = useData(() => get<Version>(path), [path]);
  const manifest = details.value?.manifest;
  return (
    <Section
      title={`Version ${props.version}`}
      about={
        manifest &&
        `Parity: torch and ONNX Runtime differ by ${number(manifest.parity.max_abs_difference)} at most ` +
          `(allowed ${number(manifest.parity.tolerance)}) over ${manifest.parity.candidates.length} x ` +
          `${manifest.parity.behaviours.length} sizes of requests.`
      }
    >
      <ProblemView error={details.error} />
      {details.value?.problem && <p class="problem">{details.value.problem}</p>}
      {manifest && (
        <>
          <Table {...metricsTable(manifest)} />
          <details>
            <summary>Manifest</summary>
            <pre tabIndex={0}>{JSON.stringify(manifest, null, 2)}</pre>
          </details>
        </>
      )}
      <button type="button" onClick={() => go("versions")}>
        Close
      </button>
    </Section>
  );
}

/** Each task's plain numbers of the training's evaluation. */
function metricsTable(manifest: Manifest): { caption: string; head: string[]; rows: string[][] } {
  const tasks = manifest.tasks.filter((task) => manifest.metrics[task.name]);
  const names = new Set(
    tasks.flatMap((task) =>
      Object.entries(manifest.metrics[task.name]!).flatMap(([name, value]) => (numberOf(value) === null ? [] : [name])),
    ),
  );
  return {
    caption: "Metrics on the test impressions of the training (n: impressions)",
    head: ["Metric", ...tasks.map((task) => `${task.name} (${task.label})`)],
    rows: [...names].map((name) => [
      name,
      ...tasks.map((task) => number(numberOf(manifest.metrics[task.name]![name]))),
    ]),
  };
}

function numberOf(value: unknown): number | null {
  if (typeof value === "number") {
    return value;
  }
  const inner = typeof value === "object" && value !== null ? (value as { value?: unknown }).value : null;
  return typeof inner === "number" ? inner : null;
}
