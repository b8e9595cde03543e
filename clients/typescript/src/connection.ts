/** Sends calls with a deadline, and repeats and hedges them as the options say. */

import { DeadlineExceeded, NoAnswer, Unavailable, errorOf } from "./errors.js";

export interface ClientOptions {
  /** Deadline of a call in milliseconds, attempts and pauses included. */
  timeoutMs?: number;
  /** The caller's key, which every call sends. */
  key?: string;
  /** The operators' token, which operators' calls send instead. */
  token?: string;
  attempts?: number;
  firstPauseMs?: number;
  longestPauseMs?: number;
  /** Sends a ranking a second time if there is no answer by then, and takes what comes first. */
  hedgeAfterMs?: number;
  fetch?: typeof fetch;
}

export interface Call {
  method: string;
  path: string;
  body?: unknown;
  operator?: boolean;
}

/** One service, and how it is called. */
export class Connection {
  readonly #url: string;
  readonly options: Required<Pick<ClientOptions, "timeoutMs" | "attempts" | "firstPauseMs" | "longestPauseMs">> &
    ClientOptions;
  readonly #fetch: typeof fetch;

  constructor(url: string, options: ClientOptions = {}) {
    if (!/^https?:\/\/[^/]/.test(url)) {
      throw new TypeError(`${JSON.stringify(url)} is no address of a service: write http://HOST:PORT`);
    }
    this.#url = url.replace(/\/+$/, "");
    this.options = { timeoutMs: 1000, attempts: 3, firstPauseMs: 20, longestPauseMs: 1000, ...options };
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
  }

  /** The answer of `attempt`, which is repeated as the options say, until `end`. */
  async repeated<Answer>(end: number, attempt: () => Promise<Answer>): Promise<Answer> {
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
    if (count >= this.options.attempts || !(error instanceof NoAnswer || error instanceof Unavailable)) {
      return null;
    }
    const backoff = Math.min(this.options.longestPauseMs, this.options.firstPauseMs * 2 ** (count - 1));
    // Between half the pause and the whole of it, so that callers that were refused together do not return together.
    const pause = backoff * (0.5 + Math.random() / 2);
    return pause + ((error instanceof Unavailable ? error.retryAfterMs : null) ?? 0);
  }

  /** The body of a 2xx answer; after `hedgeAfterMs` the call is sent a second time. */
  async hedged(call: Call, end: number): Promise<string> {
    const after = this.options.hedgeAfterMs;
    if (after === undefined) {
      return this.sent(call, end);
    }
    const stop = new AbortController();
    const first = this.sent(call, end, stop.signal);
    const timer = new Promise<null>((resolve) => setTimeout(resolve, after, null));
    try {
      // A failure of the first sending before the timer is thrown here, and repeated like any other.
      const early = await Promise.race([first, timer]);
      if (early !== null) {
        return early;
      }
      return await Promise.any([first, this.sent(call, end, stop.signal)]);
    } catch (error) {
      throw error instanceof AggregateError ? error.errors.at(-1) : error;
    } finally {
      stop.abort();
    }
  }

  /** The body of a 2xx answer. */
  async sent(call: Call, end: number, signal?: AbortSignal): Promise<string> {
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
    const { key, token } = this.options;
    const secret = call.operator && token ? token : key;
    if (secret) {
      headers["authorization"] = `Bearer ${secret}`;
    }
    if (call.body === undefined) {
      return { method: call.method, headers };
    }
    headers["content-type"] = "application/json";
    return { method: call.method, headers, body: JSON.stringify(call.body) };
  }
}
