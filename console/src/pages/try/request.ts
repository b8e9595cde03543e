/** The request of the page: as its address has it, and as `/rank` takes it. */

import type { Fusion, Profile, Ranking } from "../../types.ts";

export interface Asked {
  user: string;
  /** Ids with spaces or commas between them, or a JSON list of candidates. */
  items: string;
  scene: string;
  /** Further fields of the request, as a JSON object. */
  more: string;
}

/** What ranks, by name, in place of the user's version and the scene's profile and rules. An empty name leaves these. */
export interface Choice {
  version: string;
  profile: string;
  rules: string;
}

/** What a ranking is compared with: another scene ("" for the same), or other versions, profiles and rules. */
export interface Other extends Choice {
  scene: string;
}

/** In the address, requests without a scene, and rankings without rules: an empty value is left out of it. */
export const NONE = "-";

export type RankBody = Record<string, unknown>;

export function askedOf(query: URLSearchParams): Asked {
  const field = (name: string): string => query.get(name) ?? "";
  return { user: field("user"), items: field("items"), scene: field("scene"), more: field("more") };
}

/** The choice in the address, whose fields begin with `prefix`. */
export function choiceOf(query: URLSearchParams, prefix: string): Choice {
  const field = (name: string): string => query.get(prefix + name) ?? "";
  return { version: field("version"), profile: field("profile"), rules: field("rules") };
}

/** A choice as fields of the address. */
export function choiceFields(choice: Choice, prefix: string): Record<string, string> {
  const { version, profile, rules } = choice;
  return { [`${prefix}version`]: version, [`${prefix}profile`]: profile, [`${prefix}rules`]: rules };
}

/** What the ranking of an address is compared with; null for nothing. */
export function otherOf(query: URLSearchParams): Other | null {
  const other = { scene: query.get("other") ?? "", ...choiceOf(query, "") };
  return Object.values(other).some((name) => name !== "") ? other : null;
}

/** The fields of a request that somebody has as JSON, e.g. out of a log. Throws if it is none. */
export function askedOfBody(text: string): Asked {
  const { user_id, candidates, scene, ...more } = objectOf(text);
  if (typeof user_id !== "string" || !Array.isArray(candidates)) {
    throw new Error("A request has user_id and candidates.");
  }
  const plain = candidates.every((one) => typeof one === "string" && !/[\s,[]/.test(one));
  const items = plain ? candidates.join(" ") : JSON.stringify(candidates);
  const rest = Object.entries(more).filter(([name]) => !["explain", "request_id", "page"].includes(name));
  return {
    user: user_id,
    items,
    scene: typeof scene === "string" ? scene : "",
    more: rest.length > 0 ? JSON.stringify(Object.fromEntries(rest)) : "",
  };
}

/** Throws if a part is no JSON. */
export function bodyOf(asked: Asked): RankBody {
  const more = asked.more.trim() ? objectOf(asked.more) : {};
  const text = asked.items.trim();
  const candidates: unknown = text.startsWith("[") ? JSON.parse(text) : text.split(/[\s,]+/).filter(Boolean);
  const scene = asked.scene ? { scene: asked.scene } : {};
  return { ...more, user_id: asked.user, candidates, ...scene, explain: true };
}

/** The call that ranks a request. By a choice, the ranking is not counted as traffic. */
export function callOf(asked: Asked, choice: Choice): { path: string; body: RankBody } {
  const named = Object.entries(choice).filter(([, name]) => name !== "");
  const chosen = Object.fromEntries(named.map(([field, name]) => [field, name === NONE ? "" : name]));
  return { path: named.length > 0 ? "/rank/preview" : "/rank", body: { ...bodyOf(asked), ...chosen } };
}

/** The call for the ranking beside it. */
export function otherCallOf(asked: Asked, other: Other): { path: string; body: RankBody } {
  const { scene, version, profile, rules } = other;
  return callOf(scene === "" ? asked : { ...asked, scene: scene === NONE ? "" : scene }, { version, profile, rules });
}

function objectOf(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${(error as Error).message}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error("A JSON object is needed.");
  }
  return value as Record<string, unknown>;
}

/** The weights of a profile that this page may move, with the limits that the operator gives. */
export interface Movable {
  name: string;
  weight: number;
  min: number;
  max: number;
}

export function movableWeights(profile: Profile): Movable[] {
  const { bounds } = profile;
  return Object.entries(profile.weights ?? {})
    .filter(([name]) => !bounds || Object.keys(bounds).length === 0 || bounds[name])
    .map(([name, weight]) => {
      const reach = Math.max(1, 2 * Math.abs(weight));
      const lowest = weight < 0 ? -reach : 0;
      return { name, weight, min: bounds?.[name]?.min ?? lowest, max: bounds?.[name]?.max ?? reach };
    });
}

/** The order that weights give to candidates that are scored already, without rules. Null for a formula. */
export function reweighted(ranking: Ranking, profile: Profile, weights: Record<string, number>): Ranking | null {
  if (profile.kind === "formula") {
    return null;
  }
  const used = Object.entries({ ...profile.weights, ...weights });
  const score = (predictions: Record<string, number | null>): number =>
    profile.kind === "weighted_sum"
      ? used.reduce((total, [task, weight]) => total + weight * (predictions[task] ?? 0), 0)
      : Math.exp(
          used.reduce((total, [task, weight]) => total + weight * Math.log(Math.max(predictions[task] ?? 0, 1e-38)), 0),
        );
  const items = ranking.ranking.map((item) => ({
    ...item,
    score: score(item.predictions),
    explain: null,
    moved_by: null,
  }));
  // A stable sort keeps the order of the request among equal scores, as the service does.
  items.sort((a, b) => b.score - a.score);
  return { ...ranking, ranking: items.map((item, place) => ({ ...item, rank: place + 1 })) };
}

export function profileOf(fusion: Fusion | undefined, ranking: Ranking): Profile | undefined {
  return fusion?.profiles[ranking.fusion.profile];
}

export function ranksOf(ranking: Ranking): Map<string, number> {
  return new Map(ranking.ranking.map((item) => [item.item_id, item.rank]));
}
