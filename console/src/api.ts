/** Calls the HTTP API of the service that serves this page, and knows whether there is a connection. */

import { shared } from "./shared.ts";

/** The page is `<root>/console/`, whatever path the service stands under. */
const ROOT = new URL("..", document.baseURI);
const READ_MS = 10_000;
const CHANGE_MS = 60_000; // a change of the live version is verified before it is answered
const RETRY_MS = 2_000;
const KEY = "funnelrank.key";

export interface FieldError {
  field: string;
  message: string;
}

/** An error answer (RFC 9457). */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly errors: readonly FieldError[];
  readonly requestId: string;

  constructor(status: number, text: string) {
    const fields = parsedObject(text);
    const title = typeof fields["title"] === "string" ? fields["title"] : `The answer has the status ${status}`;
    super(title);
    this.status = status;
    this.code = String(fields["code"] ?? "");
    this.detail = String(fields["detail"] ?? "");
    this.errors = Array.isArray(fields["errors"]) ? (fields["errors"] as FieldError[]) : [];
    this.requestId = String(fields["request_id"] ?? "");
  }
}

/** The service gave no answer. */
export class NoConnection extends Error {}

/** Since when no call was answered; null while there is a connection. */
export const lostSince = shared<Date | null>(null);
/** Counts what makes everything on the page old: another key, and a connection that came back. */
export const epoch = shared(0);
/** Called at an answer 401, which a revoked key gets. */
export const onUnauthorized: { handler: () => void } = { handler: () => {} };

export function key(): string {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Keep a key until the tab is closed. An empty one removes it. */
export function keepKey(value: string): void {
  if (value) {
    sessionStorage.setItem(KEY, value);
  } else {
    sessionStorage.removeItem(KEY);
  }
}

export async function get<Answer>(path: string): Promise<Answer> {
  return JSON.parse(await sent("GET", path)) as Answer;
}

export async function send<Answer>(method: "POST" | "PUT", path: string, body: unknown): Promise<Answer> {
  return JSON.parse(await sent(method, path, body)) as Answer;
}

/** The text of a 2xx answer. Throws Problem and NoConnection. */
export async function sent(method: string, path: string, body?: unknown): Promise<string> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (key()) {
    headers["authorization"] = `Bearer ${key()}`;
  }
  const init: RequestInit = { method, headers, cache: "no-store" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  init.signal = AbortSignal.timeout(method === "GET" ? READ_MS : CHANGE_MS);
  const address = new URL(path.replace(/^\//, ""), ROOT);
  let answer: Response;
  let text: string;
  try {
    answer = await fetch(address, init);
    text = await answer.text();
  } catch (error) {
    connectionLost();
    throw new NoConnection(`no answer from ${address.host}: ${(error as Error).message}`);
  }
  lostSince.set(null);
  if (!answer.ok) {
    if (answer.status === 401 && path !== "/callers") {
      onUnauthorized.handler();
    }
    throw new Problem(answer.status, text);
  }
  return text;
}

/** Ask for an answer every two seconds until there is one; then everything on the page is read again. */
function connectionLost(): void {
  if (lostSince.get() !== null) {
    return;
  }
  lostSince.set(new Date());
  const timer = setInterval(() => {
    fetch(new URL("livez", ROOT), { cache: "no-store", signal: AbortSignal.timeout(RETRY_MS) }).then(
      () => {
        clearInterval(timer);
        lostSince.set(null);
        epoch.set(epoch.get() + 1);
      },
      () => {},
    );
  }, RETRY_MS);
}

function parsedObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return { detail: text.slice(0, 200) }; // e.g. the page of a proxy
  }
}
