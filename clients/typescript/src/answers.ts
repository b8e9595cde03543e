/** Reads answers, and makes the answer that stands in for one. */

import { NoAnswer } from "./errors.js";
import type { Ranking } from "./types.js";

const SHOWN_CHARACTERS = 200;

/** The value of a 2xx answer. Throws NoAnswer if it is not JSON, e.g. a proxy's page. */
export function parsed<Answer>(text: string): Answer {
  try {
    return JSON.parse(text) as Answer;
  } catch (error) {
    throw new NoAnswer(`the answer is not JSON: ${text.slice(0, SHOWN_CHARACTERS)}`, { cause: error });
  }
}

export function rankingOf(text: string): Ranking {
  const answer = parsed<Ranking | null>(text);
  if (!Array.isArray(answer?.ranking)) {
    throw new NoAnswer(`the answer is not a ranking: ${text.slice(0, SHOWN_CHARACTERS)}`);
  }
  return answer;
}

export function fallbackRanking(ids: readonly string[], requestId: string, reason: string): Ranking {
  return {
    request_id: requestId,
    model: null,
    fusion: {},
    degraded: [reason],
    coverage: { requested: ids.length, scored: 0 },
    ranking: ids.map((item_id, place) => ({ item_id, rank: place + 1, score: null, predictions: {} })),
    fallback: true,
  };
}
