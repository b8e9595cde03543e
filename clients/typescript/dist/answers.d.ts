/** Reads answers, and makes the answer that stands in for one. */
import type { Ranking } from "./types.js";
/** The value of a 2xx answer. Throws NoAnswer if it is not JSON, e.g. a proxy's page. */
export declare function parsed<Answer>(text: string): Answer;
export declare function rankingOf(text: string): Ranking;
export declare function fallbackRanking(ids: readonly string[], requestId: string, reason: string): Ranking;
