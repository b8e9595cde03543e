/** Reads the rollout document: its lines, what a line had in the past, and what a change makes of it. */

import type { LineState, LineVersions, Models, PastRollout, Rollout, Target, WorkerState } from "../../types.ts";

export const DEFAULT_LINE = "default";
export const VERSION_ROLES = ["stable", "canary", "shadow", "first_pass"] as const;
export type VersionRole = (typeof VERSION_ROLES)[number];

export function lineNames(rollout: Rollout): string[] {
  return [DEFAULT_LINE, ...Object.keys(rollout.lines ?? {})];
}

/** The versions of a line; undefined if the line was not there at that revision. */
export function versionsOf(rollout: PastRollout, line: string): LineVersions | undefined {
  const of = line === DEFAULT_LINE ? rollout : rollout.lines?.[line];
  if (of === undefined) {
    return undefined;
  }
  const { stable, canary, shadow, first_pass } = of;
  return { stable, canary: canary ?? null, shadow: shadow ?? null, first_pass: first_pass ?? null };
}

export function ofLine(worker: WorkerState, line: string): LineState | undefined {
  return line === DEFAULT_LINE ? worker : worker.lines?.[line];
}

/** How many workers serve a line with a version in a role, as the document wants it. */
export function servingWorkers(models: Models, line: string, role: VersionRole, target: Target): number {
  const key = role === "stable" ? "live" : role;
  return models.workers.filter((worker) => {
    const loaded = ofLine(worker, line)?.[key];
    return loaded?.name === target.name && loaded.version === target.version;
  }).length;
}

/** The earlier state of a line that a rollback without a revision restores, as far as the history tells. */
export function previousOf(rollout: Rollout, line: string): PastRollout | undefined {
  const present = JSON.stringify(versionsOf(rollout, line));
  return rollout.history.find((past) => {
    const versions = versionsOf(past, line);
    const withdrawn =
      line === DEFAULT_LINE ? past.withdrawn : (past.lines?.[line] as PastRollout | undefined)?.withdrawn;
    return versions !== undefined && !withdrawn && JSON.stringify(versions) !== present;
  });
}

export function targetOf(text: string): Target {
  const [name = "", version = ""] = text.split("/", 2);
  return { name, version };
}

/** Fields that are the same in two states of a document are compared by this content. */
export function contentOf(rollout: PastRollout): unknown {
  const { stable, canary, shadow, first_pass, lines, scenes, limits } = rollout as Rollout;
  return { stable, canary, shadow, first_pass: first_pass ?? undefined, lines, scenes, limits };
}

/** A state of the history has no scenes and no limits. */
export function versionsContent(rollout: PastRollout): unknown {
  const { lines } = rollout;
  return { ...versionsOf(rollout, DEFAULT_LINE), lines };
}
