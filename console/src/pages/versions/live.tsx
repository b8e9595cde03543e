/** The versions of a line side by side: users, workers, rankings, and what was measured before and while they serve. */

import type { VNode } from "preact";

import { count, label, number, percent } from "../../format.ts";
import { mean, matching, sum, type Sample } from "../../metrics.ts";
import { Section, Table } from "../../parts/basic.tsx";
import type { Gate, Models, Rollout, Target } from "../../types.ts";
import { VERSION_ROLES, lineNames, servingWorkers, versionsOf, type VersionRole } from "./rollout.ts";

interface Column {
  role: VersionRole;
  target: Target;
}

export function LiveVersions(props: {
  models: Models;
  rollout: Rollout;
  line: string;
  samples: readonly Sample[];
}): VNode {
  const { models, rollout, line, samples } = props;
  const versions = versionsOf(rollout, line)!;
  const columns = VERSION_ROLES.flatMap((role): Column[] => {
    const target = versions[role];
    return target ? [{ role, target }] : [];
  });
  // Without further lines the counters have no label of the line.
  const ofLine = lineNames(rollout).length > 1 ? { line } : {};
  const row = (title: string, cell: (column: Column) => string): string[] => [title, ...columns.map(cell)];
  const canary = versions.canary?.percent ?? 0;
  const gates = new Map(columns.map(({ role, target }) => [role, gateOf(models, target)]));
  const tasks = new Set([...gates.values()].flatMap((gate) => Object.keys(gate?.psi ?? {})));
  return (
    <Section
      title="Live"
      about={
        `Revision ${rollout.revision}${rollout.author ? ` by ${rollout.author}` : ""}` +
        `${rollout.reason ? ` (“${rollout.reason}”)` : ""}. Rankings are counted since the start of the service, over ` +
        "all workers of this host, by role: a version that took a role over goes on with its counter."
      }
    >
      <Table
        caption={`Versions of the line ${line}`}
        head={["Measure", ...columns.map(({ role }) => (role === "first_pass" ? "first pass" : role))]}
        rows={[
          row("Version", ({ target }) => label(target)),
          row("Users", ({ role }) =>
            role === "stable" ? `${number(100 - canary)} %` : role === "canary" ? `${number(canary)} %` : "none",
          ),
          row(
            "Workers that have it",
            ({ role, target }) => `${servingWorkers(models, line, role, target)} of ${models.workers.length}`,
          ),
          row("Rankings", ({ role }) => rankingsOf(samples, role, ofLine, "ok")),
          row("Failed rankings", ({ role }) => rankingsOf(samples, role, ofLine, "failed")),
          row("Gate: compared with", ({ role }) => against(gates.get(role))),
          ...[...tasks].map((task) => row(`Gate: PSI of ${task}`, ({ role }) => number(gates.get(role)?.psi[task]))),
          row("Gate: time over the other's", ({ role }) => number(gates.get(role)?.latency_ratio)),
          ...(versions.shadow ? shadowRows(row, samples, ofLine) : []),
        ]}
      />
      <Refused models={models} />
    </Section>
  );
}

function rankingsOf(
  samples: readonly Sample[],
  role: VersionRole,
  line: Readonly<Record<string, string>>,
  result: string,
): string {
  if (role === "shadow") {
    const shadowed = result === "ok" ? "scored" : "failed";
    return count(sum(samples, "funnelrank_shadow_rankings_total", { result: shadowed, ...line }));
  }
  return role === "first_pass" ? "–" : count(sum(samples, "funnelrank_rankings_total", { role, result, ...line }));
}

/** The measurements of the worker that had the most recent requests to measure on. */
function gateOf(models: Models, target: Target): Gate | undefined {
  const gates = models.workers.flatMap((worker) => worker.gate[label(target)] ?? []);
  return gates.sort((a, b) => b.requests - a.requests)[0];
}

function against(gate: Gate | undefined): string {
  if (gate === undefined) {
    return "–";
  }
  const n = `n = ${count(gate.requests)} recent requests, ${count(gate.scores)} scores`;
  return gate.requests > 0 ? `${gate.against}, ${n}` : `${gate.against}: no recent requests`;
}

function shadowRows(
  row: (title: string, cell: (column: Column) => string) => string[],
  samples: readonly Sample[],
  line: Readonly<Record<string, string>>,
): string[][] {
  const of =
    (text: string) =>
    ({ role }: Column) =>
      role === "shadow" ? text : "–";
  const n = count(sum(samples, "funnelrank_shadow_rank_correlation_count", line));
  return [
    row(
      "Share of the first ten that are the stable version's",
      of(`${percent(mean(samples, "funnelrank_shadow_top10_overlap_ratio", line))}, n = ${n} rankings`),
    ),
    ...matching(samples, "funnelrank_shadow_score_psi", line).map((sample) =>
      row(`PSI of ${sample.labels["task"]} (worst worker)`, of(number(sample.value))),
    ),
  ];
}

function Refused(props: { models: Models }): VNode | null {
  const rows = props.models.workers.flatMap((worker) =>
    worker.refused.map((one) => [one.model, one.code, one.detail, one.at, String(worker.pid)]),
  );
  if (rows.length === 0) {
    return null;
  }
  return <Table caption="Refused by workers" head={["What", "Code", "Why", "When", "Process"]} rows={rows} />;
}
