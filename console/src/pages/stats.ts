/** The answer of `GET /stats`. */

import type { Target } from "../types.ts";

export interface Latency {
  n: number;
  mean_ms: number | null;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
}

export interface Alarm {
  name: string;
  severity: string;
  state: "ok" | "pending" | "firing";
  labels: Record<string, string>;
  value: number | null;
  limit: number;
  /** The windows of the condition, and how much of each there is. */
  window_s: readonly number[];
  covered_s: readonly number[];
  since_s: number | null;
  summary: string;
  action: string;
}

export interface Stats {
  at: string;
  window: { asked_s: number; covered_s: number };
  traffic: { n: number; per_second: number; shed: number; failed: number; failed_share: number | null };
  latency: Latency;
  stages: readonly (Latency & { stage: string })[];
  degraded: readonly { reason: string; n: number; share: number | null }[];
  brownouts: readonly { step: string; n: number; share: number | null }[];
  versions: readonly (Target & { line: string; role: string; n: number; failed: number; share: number | null })[];
  workers: { living: number; ready: number };
  store: { reachable: boolean; detail: string };
  item_cache: { n: number; hit_share: number | null; bytes: number };
  queue: { in_work: number; most_in_work: number; connections: number };
  exposure_log: { queued: number; written: number; lost: number } | null;
  totals: Record<string, number>;
  alarms: readonly Alarm[];
}
