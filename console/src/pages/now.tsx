/** The page of the moment: traffic, latency, what is degraded, workers, Redis, cache, and the alarms. */

import type { ComponentChildren, VNode } from "preact";
import { useState } from "preact/hooks";

import { get } from "../api.ts";
import { bytes, count, duration, label, milliseconds, number, percent } from "../format.ts";
import { ProblemView, Section, Select, Table } from "../parts/basic.tsx";
import { Chart } from "../parts/chart.tsx";
import { go, route } from "../route.ts";
import { useData } from "../use_data.ts";
import type { Latency, Stats } from "./stats.ts";

const EVERY_MS = 5_000;
const MOST_POINTS = 720; // an hour
const WINDOWS = ["60", "300", "3600", "86400"];

interface Point {
  at: number;
  stats: Stats;
}

export function Now(): VNode {
  const { query } = route.use();
  const seconds = WINDOWS.find((one) => one === query.get("window")) ?? "300";
  const [points, setPoints] = useState<readonly Point[]>([]);
  const load = async (): Promise<Stats> => {
    const stats = await get<Stats>(`/stats?window_s=${seconds}`);
    const point = { at: Date.parse(stats.at) / 1000, stats };
    setPoints((before) => [...before, point].slice(-MOST_POINTS));
    return stats;
  };
  const { value: stats, error } = useData(load, [seconds], EVERY_MS);
  if (stats === undefined) {
    return error ? <ProblemView error={error} /> : <p>Reading the figures…</p>;
  }
  const covered = stats.window.covered_s;
  const about = `Over the last ${duration(covered)}, all workers of this host; n = ${count(stats.traffic.n)} rankings asked for.`;
  return (
    <>
      <ProblemView error={error} />
      <Select
        label="Window"
        value={seconds}
        options={WINDOWS.map((one) => [one, duration(Number(one))] as const)}
        onInput={(one) => {
          setPoints([]);
          go("now", { window: one });
        }}
      />
      <Alarms stats={stats} />
      <Section title="Traffic" about={about}>
        <dl class="figures">
          <Figure
            title="Rankings per second"
            value={number(stats.traffic.per_second)}
            about={`n = ${count(stats.traffic.n)}`}
          />
          <Figure
            title="Failed"
            value={percent(stats.traffic.failed_share)}
            about={`${count(stats.traffic.failed)} of ${count(stats.traffic.n)}`}
          />
          <Figure
            title="Shed (refused because of load)"
            value={count(stats.traffic.shed)}
            about={`of ${count(stats.traffic.n)}`}
          />
          <Figure
            title="95 % are faster than"
            value={milliseconds(stats.latency.p95_ms)}
            about={`n = ${count(stats.latency.n)}`}
          />
          <Figure
            title="Workers ready"
            value={`${stats.workers.ready} of ${stats.workers.living}`}
            about={`${count(stats.queue.in_work)} of at most ${count(stats.queue.most_in_work)} requests in work`}
          />
          <Figure
            title="Redis"
            value={stats.store.reachable ? "answers" : "does not answer"}
            about={stats.store.detail}
          />
          <Figure
            title="Item cache: hits"
            value={percent(stats.item_cache.hit_share)}
            about={`n = ${count(stats.item_cache.n)} rows, ${bytes(stats.item_cache.bytes)}`}
          />
          {stats.exposure_log && (
            <Figure
              title="Exposure log: waiting"
              value={count(stats.exposure_log.queued)}
              about={`${count(stats.exposure_log.written)} written, ${count(stats.exposure_log.lost)} lost`}
            />
          )}
        </dl>
        <Curves points={points} />
      </Section>
      <Section title="Latency by stage" about={about}>
        <Table
          caption="Latency of /rank and of its stages"
          head={["Stage", "n", "mean", "50 %", "95 %", "99 %"]}
          rows={[row("whole request", stats.latency), ...stats.stages.map((stage) => row(stage.stage, stage))]}
          numbers={[1, 2, 3, 4, 5]}
        />
      </Section>
      <Section title="Versions" about={about}>
        <Table
          caption="Rankings by line and role"
          head={["Version", "Line", "Role", "n", "Share", "Failed"]}
          rows={stats.versions.map((one) => [
            label(one),
            one.line,
            one.role,
            count(one.n),
            percent(one.share),
            count(one.failed),
          ])}
          numbers={[3, 4, 5]}
        />
      </Section>
      <Section title="Degraded" about={about}>
        <Table
          caption="Rankings that were not all that they could be"
          head={["Reason", "n", "Share"]}
          rows={[
            ...stats.degraded.map((one) => [one.reason, count(one.n), percent(one.share)]),
            ...stats.brownouts.map((one) => [`brown-out, step ${one.step}`, count(one.n), percent(one.share)]),
          ]}
          numbers={[1, 2]}
          empty="None."
        />
      </Section>
      <Section title="Since the start" about="Counters of /metrics, all workers of this host.">
        <Table
          caption="Counters since the start of the service"
          head={["What", "n"]}
          rows={Object.entries(stats.totals).map(([name, n]) => [name, count(n)])}
          numbers={[1]}
        />
      </Section>
    </>
  );
}

function Figure(props: { title: string; value: string; about: ComponentChildren }): VNode {
  return (
    <div>
      <dt>{props.title}</dt>
      <dd>{props.value}</dd>
      <dd class="about">{props.about}</dd>
    </div>
  );
}

function row(title: string, latency: Latency): string[] {
  const figures = [latency.mean_ms, latency.p50_ms, latency.p95_ms, latency.p99_ms];
  return [title, count(latency.n), ...figures.map(milliseconds)];
}

function Curves(props: { points: readonly Point[] }): VNode | null {
  const { points } = props;
  if (points.length < 2) {
    return <p class="about">Curves begin with the second reading, in five seconds.</p>;
  }
  const times = points.map((point) => point.at);
  const of = (name: string, value: (stats: Stats) => number | null) => ({
    label: name,
    values: points.map((point) => value(point.stats)),
  });
  return (
    <div class="charts">
      <Chart title="Rankings per second" times={times} curves={[of("per second", (s) => s.traffic.per_second)]} />
      <Chart
        title="Latency of /rank in ms"
        times={times}
        curves={[
          of("50 %", (s) => s.latency.p50_ms),
          of("95 %", (s) => s.latency.p95_ms),
          of("99 %", (s) => s.latency.p99_ms),
        ]}
      />
    </div>
  );
}

function Alarms(props: { stats: Stats }): VNode {
  const { alarms, window } = props.stats;
  const raised = alarms.filter((alarm) => alarm.state !== "ok");
  return (
    <Section
      title={raised.length === 0 ? "No alarm" : raised.length === 1 ? "1 alarm" : `${raised.length} alarms`}
      about={
        `${alarms.length} conditions of the alert rules, computed on this host's own counters, which reach back ` +
        `${duration(Math.max(window.covered_s, ...alarms.flatMap((alarm) => alarm.covered_s)))}.`
      }
    >
      {raised.map((alarm) => (
        <div key={alarm.name} class={alarm.state === "firing" ? "problem" : "note"} role="status">
          <strong>
            {alarm.name} ({alarm.severity}, {alarm.state}
            {alarm.since_s === null ? "" : ` for ${duration(alarm.since_s)}`})
          </strong>
          <p>
            {alarm.summary} {number(alarm.value)} against {number(alarm.limit)}, over{" "}
            {alarm.window_s.map(duration).join(" and ")}
            {Object.entries(alarm.labels).map(([name, value]) => `, ${name} ${value}`)}.
          </p>
          <p>{alarm.action}</p>
        </div>
      ))}
    </Section>
  );
}
