/** The client. It needs `fetch` and `crypto`, which browsers and Node 20 have. */

import { fallbackRanking, parsed, rankingOf } from "./answers.js";
import { Connection, type Call, type ClientOptions } from "./connection.js";
import { FunnelrankError, ProblemError } from "./errors.js";
import type { Candidate, Document, Event, Features, Impression, RankOptions, Ranking, Rollback, Written } from "./types.js";

const ON_THE_WAY_MS = 5; // left of the deadline for the way of the answer
const CHANGE_TIMEOUT_MS = 60_000; // a change of the live version is verified before it is answered

export class Client {
  readonly #connection: Connection;

  constructor(url: string, options: ClientOptions = {}) {
    this.#connection = new Connection(url, options);
  }

  /** Rank `candidates` for a user. Throws FunnelrankError: BadRequest, Unavailable, DeadlineExceeded, NoAnswer. */
  async rank(
    userId: string,
    candidates: readonly (string | Candidate)[],
    options: RankOptions & { timeoutMs?: number } = {},
  ): Promise<Ranking> {
    const { timeoutMs = this.#connection.options.timeoutMs, ...fields } = options;
    const end = performance.now() + timeoutMs;
    const named = { request_id: newId(), ...fields };
    return this.#connection.repeated(end, async () => {
      const left = Math.max(1, Math.floor(end - performance.now()) - ON_THE_WAY_MS);
      const body = { user_id: userId, candidates, timeout_ms: left, ...named };
      return rankingOf(await this.#connection.hedged({ method: "POST", path: "/rank", body }, end));
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

  /** Rank by a chosen `version` (`name/version`), `profile` and `rules`; it is neither counted nor logged. */
  previewRanking(request: Document): Promise<Document> {
    return this.#json({ method: "POST", path: "/rank/preview", body: request, operator: true });
  }

  /** The effect of a fusion document on recent requests; nothing is changed. */
  previewFusion(document: Document): Promise<Document> {
    return this.#change("POST", "/fusion/preview", document);
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

  /** The effect of a rules document on recent requests; nothing is changed. */
  previewRules(document: Document): Promise<Document> {
    return this.#change("POST", "/rules/preview", document);
  }

  /** Who may call the service, with the last use of every key; an operators' call. */
  getCallers(): Promise<Document> {
    return this.#json({ method: "GET", path: "/callers", operator: true });
  }

  getQuality(): Promise<Document> {
    return this.#json({ method: "GET", path: "/quality" });
  }

  getModels(): Promise<Document> {
    return this.#json({ method: "GET", path: "/models" });
  }

  /** A published version: its manifest, its places in the rollout, what the gate measured. */
  getModel(name: string, version: string): Promise<Document> {
    return this.#json({ method: "GET", path: `/models/${name}/${version}` });
  }

  putRollout(document: Document): Promise<Document> {
    return this.#change("PUT", "/models/rollout", document);
  }

  rollBackModels(to: Rollback = {}): Promise<Document> {
    return this.#change("POST", "/models/rollback", to);
  }

  /** The rows and newest behaviours of a user, decoded. */
  getStoredUser(userId: string, behaviours = 50): Promise<Document> {
    const path = `/store/users/${encodeURIComponent(userId)}?behaviours=${behaviours}`;
    return this.#json({ method: "GET", path, operator: true });
  }

  /** The rows of an item, decoded. */
  getStoredItem(itemId: string): Promise<Document> {
    return this.#json({ method: "GET", path: `/store/items/${encodeURIComponent(itemId)}`, operator: true });
  }

  /** Traffic, latency, versions, store and alarms of one host, over the last seconds. */
  getStats(windowS = 300): Promise<Document> {
    return this.#json({ method: "GET", path: `/stats?window_s=${windowS}` });
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
    return this.#connection.sent({ method: "GET", path: "/metrics" }, performance.now() + this.#connection.options.timeoutMs);
  }

  async #answers(path: string): Promise<boolean> {
    try {
      await this.#connection.sent({ method: "GET", path }, performance.now() + this.#connection.options.timeoutMs);
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
    return parsed(await this.#connection.sent({ method, path, body, operator: true }, end));
  }

  #json<Answer>(call: Call): Promise<Answer> {
    const end = performance.now() + this.#connection.options.timeoutMs;
    return this.#connection.repeated(end, async () => parsed<Answer>(await this.#connection.sent(call, end)));
  }
}

/** An id of 32 hex digits. `crypto.randomUUID` is missing on pages without TLS. */
function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
