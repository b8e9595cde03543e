/** The page of quality: what `funnelrank quality` measured on the log. */

import type { VNode } from "preact";

import { Problem, get } from "../api.ts";
import { count, number, percent } from "../format.ts";
import { ProblemView, Section, Table } from "../parts/basic.tsx";
import { Chart } from "../parts/chart.tsx";
import { useData } from "../use_data.ts";

interface Figures {
  version: string;
  task: string;
  impressions: number;
  positives: number;
  users: number;
  open: number;
  predicted: number | null;
  observed: number | null;
  copc: number | null;
  ece: number | null;
  auc: number | null;
  gauc: number | null;
  intervals: Record<string, readonly [number, number] | null>;
  why?: string;
}

interface Report {
  model: string;
  watermark_ms: number;
  days: number;
  impressions: number;
  cells: readonly (Figures & { scene: string; arm: string })[];
  by_day: readonly (Figures & { day: string })[];
  by_position: readonly {
    version: string;
    task: string;
    position: number;
    impressions: number;
    observed: number;
    predicted: number;
  }[];
  alarms: readonly {
    version: string;
    task: string;
    ratio: number | null;
    z: number | null;
    alarm: boolean | null;
    positives_before: number;
    positives_week: number;
  }[];
  drift: readonly {
    version: string;
    group: string;
    feature: string;
    impressions: number;
    missing: number;
    missing_training: number | null;
    unknown: number | null;
    psi: number | null;
  }[];
}

const DRIFTED = 0.25;
const POSITIONS = 20;

export function Quality(): VNode {
  const { value: report, error } = useData(() => get<Report>("/quality"), []);
  if (error instanceof Problem && error.status === 404) {
    return <p class="note">{error.detail}</p>;
  }
  if (report === undefined) {
    return error ? <ProblemView error={error} /> : <p>Reading the report…</p>;
  }
  const until = new Date(report.watermark_ms).toLocaleString();
  const about = `${report.model}, the ${number(report.days)} days until ${until}; n = ${count(report.impressions)} impressions.`;
  return (
    <>
      <ProblemView error={error} />
      <Section title="Calibration and order" about={`${about} In brackets: 95 % intervals over users.`}>
        <Table
          caption="Figures by version, task, scene and arm (*: all)"
          head={[
            "Version",
            "Task",
            "Scene",
            "Arm",
            "n",
            "Users",
            "Predicted",
            "Observed",
            "COPC",
            "ECE",
            "AUC",
            "GAUC",
          ]}
          rows={report.cells.map((cell) => [
            cell.version,
            cell.task,
            cell.scene || "–",
            cell.arm || "–",
            count(cell.impressions),
            count(cell.users),
            ...(cell.why
              ? [cell.why, "", "", "", "", ""]
              : (["predicted", "observed", "copc", "ece", "auc", "gauc"] as const).map((name) => measured(cell, name))),
          ])}
          numbers={[4, 5]}
        />
        <Days report={report} />
      </Section>
      <Section title="By position" about={`${about} The first ${POSITIONS} positions.`}>
        <Table
          caption="Observed and predicted rate by position"
          head={["Version", "Task", "Position", "n", "Observed", "Predicted"]}
          rows={report.by_position
            .filter((one) => one.position <= POSITIONS)
            .map((one) => [
              one.version,
              one.task,
              one.position,
              count(one.impressions),
              number(one.observed),
              number(one.predicted),
            ])}
          numbers={[2, 3, 4, 5]}
        />
      </Section>
      <Section title="Alarms" about={`${about} The COPC of the last week over that of the days before.`}>
        <Table
          caption="Comparisons of the last week with the days before"
          head={["Version", "Task", "Positives before", "Positives of the week", "Ratio", "z", "Result"]}
          rows={report.alarms.map((one) => [
            one.version,
            one.task,
            count(one.positives_before),
            count(one.positives_week),
            number(one.ratio),
            number(one.z),
            one.alarm === null ? "too few positives" : one.alarm ? "ALARM" : "stable",
          ])}
          numbers={[2, 3, 4, 5]}
        />
      </Section>
      <Section title="Drift of features" about={`${about} Against the training part; PSI above ${DRIFTED} is large.`}>
        <Table
          caption="Features, the most drifted first"
          head={["Feature", "Version", "n", "Missing in training", "Missing", "Unknown ids", "PSI"]}
          rows={[...report.drift]
            .sort((a, b) => (b.psi ?? 0) - (a.psi ?? 0))
            .map((one) => [
              `${one.group} ${one.feature}`,
              one.version,
              count(one.impressions),
              percent(one.missing_training),
              percent(one.missing),
              percent(one.unknown),
              number(one.psi),
            ])}
          numbers={[2, 3, 4, 5, 6]}
        />
      </Section>
    </>
  );
}

function measured(cell: Figures, name: "predicted" | "observed" | "copc" | "ece" | "auc" | "gauc"): string {
  const interval = cell.intervals[name];
  return interval ? `${number(cell[name])} (${number(interval[0])} to ${number(interval[1])})` : number(cell[name]);
}

/** The COPC of each version and task by day. */
function Days(props: { report: Report }): VNode | null {
  const { by_day } = props.report;
  const days = [...new Set(by_day.map((one) => one.day))].sort();
  if (days.length < 2) {
    return null;
  }
  const names = [...new Set(by_day.map((one) => `${one.version} ${one.task}`))];
  const curves = names.map((name) => ({
    label: name,
    values: days.map(
      (day) => by_day.find((one) => one.day === day && `${one.version} ${one.task}` === name)?.copc ?? null,
    ),
  }));
  return <Chart title="COPC by day (1 is right)" times={days.map((day) => Date.parse(day) / 1000)} curves={curves} />;
}
