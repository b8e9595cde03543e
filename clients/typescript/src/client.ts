/** The client. It needs `fetch` and `crypto`, which browsers and Node 20 have. */

import { DeadlineExceeded, FunnelrankError, NoAnswer, ProblemError, Unavailable, errorOf } from "./errors.js";
import type { Candidate, Document, Event, Features, Impression, RankOptions, Ranking, Rollback, Written } from "./types.js";

export interface ClientOptions {
  /** Deadline of a call in milliseconds, attempts and pauses included. */
  timeoutMs?: number;
  /** The operator's token, which operators' calls alone send. */
  token?: string;
  attempts?: number;
  firstPauseMs?: number;
  longestPauseMs?: number;
  /** Sends a ranking a second time if there is no answer by then, and takes what comes first. */
  hedgeAfterMs?: number;
  fetch?: typeof fetch;
}

interface Call {
  method: string;
  path: string;
  body?: unknown;
  operator?: boolean;
}

const ON_THE_WAY_MS = 5; // left of the deadline for the way of the answer
const SHOWN_CHARACTERS = 200;
const CHANGE_TIMEOUT_MS = 60_000; // a change of the live version is verified before it is answered

export class Client {
  readonly #url: string;
  readonly #options: Required<Pick<ClientOptions, "timeoutMs" | "attempts" | "firstPauseMs" | "longestPauseMs">> &
    ClientOptions;
  readonly #fetch: typeof fetch;

  constructor(url: string, options: ClientOptions = {}) {
    if (!/^https?:\/\/[^/]/.test(url)) {
      throw new TypeError(`${JSON.stringify(url)} is no address of a service: write http://HOST:PORT`);
    }
    this.#url = url.replace(/\/+$/, "");
    this.#options = { timeoutMs: 1000, attempts: 3, firstPauseMs: 20, longestPauseMs: 1000, ...options };
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
  }

  /** Rank `candidates` for a user. Throws FunnelrankError: BadRequest, Unavailable, DeadlineExceeded, NoAnswer. */
  async rank(
    userId: string,
    candidates: readonly (string | Candidate)[],
    options: RankOptions & { timeoutMs?: number } = {},
  ): Promise<Ranking> {
    const { timeoutMs = this.#options.timeoutMs, ...fields } = options;
    const end = performance.now() + timeoutMs;
    const named = { request_id: newId(), ...fields };
    return this.#repeated(end, async () => {
      const left = Math.max(1, Math.floor(end - performance.now()) - ON_THE_WAY_MS);
      const body = { user_id: userId, candidates, timeout_ms: left, ...named };
      return rankingOf(await this.#hedged({ method: "POST", path: "/rank", body }, end));
    });
  }

  /**
   * Rank, or give the order of `fallback` (by default that of the candidates) if there is no ranking in time. A wrong
   * call still throws: its repetition would hide the fault for ever.
   */
  async rankOr(
    fallback: readonly string[] | null,
    userId: string,
    candidates: readonly (string | Candidate)[],
    options: RankOptions & { timeoutMs?: number } = {},
  ): Promise<Ranking> {
    const requestId = options.request_id ?? newId();
    try {
      return await this.rank(userId, candidates, { ...options, request_id: requestId });
    } catch (error) {
      if (!(error instanceof FunnelrankError) || (error instanceof ProblemError && error.status < 500)) {
        throw error;
      }
      const ids = fallback ?? candidates.map((c) => (typeof c === "string" ? c : c.item_id));
      return fallbackRanking(ids, requestId, error.name);
    }
  }

  /** Write behaviours, at most 1,000 in one call. Those without an id or a time get one, so that a repetition counts once. */
  sendEvents(events: readonly Event[]): Promise<Written> {
    const body = { events: events.map((event) => ({ event_id: newId(), timestamp: Date.now(), ...event })) };
    return this.#json({ method: "POST", path: "/events", body });
  }

  /** Say what came into view. `new` is null in the answer if the service cannot tell. */
  sendImpressions(impressions: readonly Impression[]): Promise<Written> {
    const named = impressions.map((one) => ({ impression_id: newId(), timestamp: Date.now(), ...one }));
    return this.#json({ method: "POST", path: "/impressions", body: { impressions: named } });
  }

  /** Write features of users: user id to feature values. */
  putUserFeatures(users: Readonly<Record<string, Features>>): Promise<Document> {
    const rows = Object.entries(users).map(([user_id, features]) => ({ user_id, features }));
    return this.#json({ method: "PUT", path: "/features/users", body: { users: rows }, operator: true });
  }

  /** Write features of items: item id to feature values. */
  putItemFeatures(items: Readonly<Record<string, Features>>): Promise<Document> {
    const rows = Object.entries(items).map(([item_id, features]) => ({ item_id, features }));
    return this.#json({ method: "PUT", path: "/features/items", body: { items: rows }, operator: true });
  }

  getFusion(): Promise<Document> {
    return this.#json({ method: "GET", path: "/fusion" });
  }

  putFusion(document: Document): Promise<Document> {
    return this.#change("PUT", "/fusion", document);
  }

  rollBackFusion(to: Rollback = {}): Promise<Document> {
    return this.#change("POST", "/fusion/rollback", to);
  }

  getRules(): Promise<Document> {
    return this.#json({ method: "GET", path: "/rules" });
  }

  putRules(document: Document): Promise<Document> {
    return this.#change("PUT", "/rules", document);
  }

  rollBackRules(to: Rollback = {}): Promise<Document> {
    return this.#change("POST", "/rules/rollback", to);
  }

  getModels(): Promise<Document> {
    return this.#json({ method: "GET", path: "/models" });
  }

  putRollout(document: Document): Promise<Document> {
    return this.#change("PUT", "/models/rollout", document);
  }

  rollBackModels(to: Rollback = {}): Promise<Document> {
    return this.#change("POST", "/models/rollback", to);
  }

  /** Whether the process answers. */
  isLive(): Promise<boolean> {
    return this.#answers("/livez");
  }

  /** Whether it ranks. */
  isReady(): Promise<boolean> {
    return this.#answers("/readyz");
  }

  /** All metrics in the text form of Prometheus. */
  getMetrics(): Promise<string> {
    return this.#sent({ method: "GET", path: "/metrics" }, performance.now() + this.#options.timeoutMs);
  }

  async #answers(path: string): Promise<boolean> {
    try {
      await this.#sent({ method: "GET", path }, performance.now() + this.#options.timeoutMs);
      return true;
    } catch (error) {
      if (error instanceof FunnelrankError) {
        return false;
      }
      throw error;
    }
  }

  /** A change of what is live is not repeated: its first sending may have been carried out. */
  async #change(method: string, path: string, body: object): Promise<Document> {
    const end = performance.now() + CHANGE_TIMEOUT_MS;
    return parsed(await this.#sent({ method, path, body, operator: true }, end));
  }

  #json<Answer>(call: Call): Promise<Answer> {
    const end = performance.now() + this.#options.timeoutMs;
    return this.#repeated(end, async () => parsed<Answer>(await this.#sent(call, end)));
  }

  async #repeated<Answer>(end: number, attempt: () => Promise<Answer>): Promise<Answer> {
    for (let count = 1; ; count++) {
      try {
        return await attempt();
      } catch (error) {
        const pause = this.#pauseMs(count, error);
        if (pause === null || pause >= end - performance.now()) {
          throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
  }

  /** The pause before the next attempt; null if there is none. */
  #pauseMs(count: number, error: unknown): number | null {
    if (count >= this.#options.attempts || !(error instanceof NoAnswer || error instanceof Unavailable)) {
      return null;
    }
    const backoff = Math.min(this.#options.longestPauseMs, this.#options.firstPauseMs * 2 ** (count - 1));
    // Between half the pause and the whole of it, so that callers that were refused together do not return together.
    const pause = backoff * (0.5 + Math.random() / 2);
    return pause + ((error instanceof Unavailable ? error.retryAfterMs : null) ?? 0);
  }

  async #hedged(call: Call, end: number): Promise<string> {
    const after = this.#options.hedgeAfterMs;
    if (after === undefined) {
      return this.#sent(call, end);
    }
    const stop = new AbortController();
    const first = this.#sent(call, end, stop.signal);
    const timer = new Promise<null>((resolve) => setTimeout(resolve, after, null));
    try {
      // A failure of the first sending before the timer is thrown here, and repeated like any other.
      const early = await Promise.race([first, timer]);
      if (early !== null) {
        return early;
      }
      return await Promise.any([first, this.#sent(call, end, stop.signal)]);
    } catch (error) {
      throw error instanceof AggregateError ? error.errors.at(-1) : error;
    } finally {
      stop.abort();
    }
  }

  /** The body of a 2xx answer. */
  async #sent(call: Call, end: number, signal?: AbortSignal): Promise<string> {
    const left = end - performance.now();
    if (left <= 0) {
      throw new DeadlineExceeded("the deadline passed before the request was sent");
    }
    // Outside of `try`: a body that JSON cannot hold is a fault of the caller.
    const request = this.#request(call);
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), left);
    const onAbort = () => stop.abort();
    signal?.addEventListener("abort", onAbort);
    let status: number;
    let retryAfter: string | null;
    let text: string;
    try {
      const answer = await this.#fetch(this.#url + call.path, { ...request, signal: stop.signal });
      status = answer.status;
      retryAfter = answer.headers.get("retry-after");
      text = await answer.text();
    } catch (error) {
      if (stop.signal.aborted) {
        throw new DeadlineExceeded(`no answer from ${this.#url} within ${Math.round(left)} ms`, { cause: error });
      }
      throw new NoAnswer(`no answer from ${this.#url}: ${String(error)}`, { cause: error });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
    if (status < 200 || status > 299) {
      throw errorOf(status, retryAfter, text);
    }
    return text;
  }

  #request(call: Call): RequestInit {
    const headers: Record<string, string> = { accept: "application/json" };
    if (call.operator && this.#options.token) {
      headers["authorization"] = `Bearer ${this.#options.token}`;
    }
    if (call.body === undefined) {
      return { method: call.method, headers };
    }
    headers["content-type"] = "application/json";
    return { method: call.method, headers, body: JSON.stringify(call.body) };
  }
}

/** The value of a 2xx answer. Throws NoAnswer if it is not JSON, e.g. a proxy's page. */
function parsed<Answer>(text: string): Answer {
  try {
    return JSON.parse(text) as Answer;
  } catch (error) {
    throw new NoAnswer(`the answer is not JSON: ${text.slice(0, SHOWN_CHARACTERS)}`, { cause: error });
  }
}

function rankingOf(text: string): Ranking {
  const answer = parsed<Ranking | null>(text);
  if (!Array.isArray(answer?.ranking)) {
    throw new NoAnswer(`the answer is not a ranking: ${text.slice(0, SHOWN_CHARACTERS)}`);
  }
  return answer;
}

function fallbackRanking(ids: readonly string[], requestId: string, reason: string): Ranking {
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

/** An id of 32 hex digits. `crypto.randomUUID` is missing on pages without TLS. */
function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
