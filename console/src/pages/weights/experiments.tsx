/** The experiments of a document: which users get which arm. */

import type { VNode } from "preact";

import { count, number } from "../../format.ts";
import { getMetrics, sum } from "../../metrics.ts";
import { Table } from "../../parts/basic.tsx";
import type { Experiment } from "../../types.ts";
import { useData } from "../../use_data.ts";

const EVERY_MS = 5_000;

export function Experiments(props: { experiments: Record<string, Experiment> | undefined }): VNode {
  const metrics = useData(getMetrics, [], EVERY_MS);
  const rankings = (experiment: string, arm: string): string =>
    count(sum(metrics.value ?? [], "funnelrank_experiment_rankings_total", { experiment, arm }));
  const experiments = Object.entries(props.experiments ?? {});
  const rows = experiments.flatMap(([name, experiment]) => {
    const arms = Array.isArray(experiment?.arms) ? experiment.arms : [];
    const rest = 100 - arms.reduce((total, arm) => total + arm.percent, 0);
    return [
      ...arms.map((arm) => [
        name,
        experiment.scene ?? "none",
        arm.name,
        arm.profile ?? arm.rules ?? "",
        `${number(arm.percent)} %`,
        rankings(name, arm.name),
      ]),
      [name, experiment.scene ?? "none", "(no arm)", "as without the experiment", `${number(rest)} %`, "–"],
    ];
  });
  return (
    <Table
      caption="Experiments and arms (rankings: since the start of the service, all workers of this host)"
      head={["Experiment", "Scene", "Arm", "Uses", "Users", "Rankings"]}
      rows={rows}
      empty="No experiment; they are written in the JSON below."
    />
  );
}
