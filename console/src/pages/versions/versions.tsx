/** The page of versions: what is published, what is live, and how that is changed. */

import type { VNode } from "preact";
import { useState } from "preact/hooks";

import { get } from "../../api.ts";
import { label } from "../../format.ts";
import { getMetrics } from "../../metrics.ts";
import { ProblemView, Section, Select } from "../../parts/basic.tsx";
import { History } from "../../parts/history.tsx";
import { route, go } from "../../route.ts";
import type { Models, PastRollout } from "../../types.ts";
import { useData } from "../../use_data.ts";
import { LiveVersions } from "./live.tsx";
import { Published } from "./published.tsx";
import { DEFAULT_LINE, lineNames, versionsContent, versionsOf } from "./rollout.ts";
import { RolloutForm } from "./rollout_form.tsx";

const EVERY_MS = 2_000;

export function Versions(): VNode {
  const { query } = route.use();
  const models = useData(() => get<Models>("/models"), [], EVERY_MS);
  const metrics = useData(getMetrics, [], EVERY_MS);
  const [restored, setRestored] = useState<PastRollout | null>(null);
  if (models.value === undefined) {
    return models.error ? <ProblemView error={models.error} /> : <p>Reading the versions…</p>;
  }
  const { rollout, problem } = models.value;
  const lines = rollout ? lineNames(rollout) : [DEFAULT_LINE];
  const line = lines.find((name) => name === query.get("line")) ?? DEFAULT_LINE;
  return (
    <>
      <ProblemView error={models.error} />
      {problem && <p class="problem">{problem}</p>}
      {lines.length > 1 && (
        <Select label="Line" value={line} options={lines} onInput={(name) => go("versions", { line: name })} />
      )}
      {rollout && (
        <>
          <LiveVersions models={models.value} rollout={rollout} line={line} samples={metrics.value ?? []} />
          <Section
            title="Change what is live"
            about="A change is checked before it is written, and every worker follows it within a poll."
          >
            <RolloutForm
              key={line}
              models={models.value}
              rollout={rollout}
              line={line}
              restored={restored}
              onChosen={() => setRestored(null)}
              reload={models.reload}
            />
          </Section>
          <Section title="History" about={`${rollout.history.length} earlier states are kept.`}>
            <History
              title="Revisions of the rollout document"
              states={[rollout, ...rollout.history].filter((past) => versionsOf(past, line))}
              content={versionsContent}
              summary={(past) => summaryOf(past, line)}
              onRestore={setRestored}
            />
          </Section>
        </>
      )}
      <Published models={models.value} selected={query.get("version") ?? ""} line={line} />
    </>
  );
}

function summaryOf(past: PastRollout, line: string): string {
  const versions = versionsOf(past, line);
  const canary = versions?.canary ? `, canary ${label(versions.canary)} at ${versions.canary.percent} %` : "";
  const shadow = versions?.shadow ? `, shadow ${label(versions.shadow)}` : "";
  return `${label(versions?.stable)}${canary}${shadow}`;
}
