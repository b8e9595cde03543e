/** Answers of the API, as far as the console reads them. */

export interface Target {
  name: string;
  version: string;
}

export interface Canary extends Target {
  percent: number;
}

export interface LineVersions {
  stable: Target;
  canary: Canary | null;
  shadow: Target | null;
  first_pass?: Target | null;
}

export interface Signed {
  revision: number;
  author?: string;
  reason?: string;
  written_at?: string;
  withdrawn?: boolean;
}

export interface PastRollout extends LineVersions, Signed {
  line?: string | null;
  lines?: Record<string, LineVersions>;
}

export interface Rollout extends PastRollout {
  limits: Record<string, number | null>;
  scenes?: Record<string, string>;
  restores?: number | null;
  history: readonly PastRollout[];
}

export interface Loaded extends Target {
  role: string;
  revision: number;
  percent?: number | null;
}

export interface LineState {
  live: Loaded | null;
  canary: Loaded | null;
  shadow: Loaded | null;
  first_pass: Loaded | null;
}

export interface Gate {
  against: string;
  requests: number;
  scores: number;
  psi: Record<string, number>;
  latency_ratio: number | null;
  brownout: Record<string, number>;
}

export interface WorkerState extends LineState {
  pid: number;
  fusion_revision: number;
  rules_revision: number;
  loaded: readonly (Target & { graph_bytes: number })[];
  lines?: Record<string, LineState>;
  refused: readonly { model: string; code: string; detail: string; at: string }[];
  gate: Record<string, Gate>;
}

export interface PublishedVersion extends Target {
  problem?: string;
  created_at?: string;
  architecture?: string;
  tasks?: readonly { name: string; kind: string }[];
  fingerprint?: string;
}

export interface Models {
  published: readonly PublishedVersion[];
  rollout: Rollout | null;
  worker: WorkerState;
  workers: readonly WorkerState[];
  problem?: string | null;
}

export interface Served {
  served: { state: string; detail: string };
  warnings?: readonly string[];
}

export interface Profile {
  kind: "weighted_sum" | "weighted_product" | "formula";
  weights?: Record<string, number>;
  formula?: string;
  missing?: Record<string, number>;
  bounds?: Record<string, { min: number; max: number }>;
}

export interface Experiment {
  scene?: string | null;
  salt?: string;
  arms: readonly { name: string; profile?: string; rules?: string; percent: number }[];
}

export interface FusionContent {
  profiles: Record<string, Profile>;
  scenes: Record<string, string>;
  experiments: Record<string, Experiment>;
}

export interface Fusion extends FusionContent, Signed {
  tasks: readonly string[];
  overrides_allowed: boolean;
  history?: readonly (FusionContent & Signed)[];
}

export interface RulesContent {
  rules: Record<string, readonly Record<string, unknown>[]>;
  experiments: Record<string, Experiment>;
}

export interface Rules extends RulesContent, Signed {
  history?: readonly (RulesContent & Signed)[];
}

export type Part = Record<"score" | "value" | "weight" | "part" | "log_part", number | null | undefined>;

export interface Move {
  rule: string;
  from: number | null;
  to: number | null;
}

export interface RankedItem {
  item_id: string;
  rank: number;
  score: number | null;
  predictions: Record<string, number | null>;
  explain?: Record<string, Part> | null;
  moved_by?: readonly Move[] | null;
}

export interface Ranking {
  request_id: string;
  model: Target & { role: string; line?: string };
  fusion: { profile: string; revision: number; overridden?: boolean; experiment?: string; arm?: string };
  rules?: { revision: number; name: string; relaxed: string[]; removed: Record<string, number>; paid?: unknown } | null;
  degraded: readonly string[];
  coverage: { requested: number; scored: number };
  ranking: readonly RankedItem[];
}
