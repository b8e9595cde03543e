/** Who uses this tab: the key, the role that it has, and the name that changes are signed with. */

import { Problem, epoch, get, keepKey, key, onUnauthorized } from "./api.ts";
import { shared } from "./shared.ts";

export type Role = "unknown" | "none" | "read" | "operate";

export interface Session {
  role: Role;
  /** What to do about a key that is missing or not valid. */
  message: string;
}

const AUTHOR = "funnelrank.author";
export const session = shared<Session>({ role: "unknown", message: "" });

const NEEDS_KEY =
  "This service needs a key. `funnelrank callers add NAME --role read` prints one that may look, `--role operate` one " +
  "that may change.";
const NOT_VALID =
  "The key is not valid: it is mistyped, has expired, or was revoked. Enter another one; " +
  "`funnelrank callers rotate NAME` prints a new key of a caller.";
const NOT_OPERATOR = "The key is not the operators' token, so this tab may look and not change.";

/** Find out what the key permits. An operators' call that only reads tells it. */
export async function checkKey(): Promise<void> {
  session.set(await sessionOfKey());
}

async function sessionOfKey(): Promise<Session> {
  try {
    await get("/callers");
    return { role: "operate", message: "" };
  } catch (error) {
    if (!(error instanceof Problem)) {
      return session.get(); // without a connection nothing new is known
    }
    if (error.status === 403 || error.status === 404) {
      return { role: "read", message: "" };
    }
    return error.status === 401
      ? sessionWithoutOperator()
      : { role: "read", message: `${error.message}: ${error.detail}` };
  }
}

/** The key is no operator's. Without a callers document everybody may look nevertheless. */
async function sessionWithoutOperator(): Promise<Session> {
  try {
    await get("/fusion");
    return { role: "read", message: key() ? NOT_OPERATOR : "" };
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      return { role: "none", message: key() ? NOT_VALID : NEEDS_KEY };
    }
    return error instanceof Problem ? { role: "read", message: "" } : session.get();
  }
}

export async function useKey(value: string): Promise<void> {
  keepKey(value.trim());
  await checkKey();
  epoch.set(epoch.get() + 1);
}

onUnauthorized.handler = () => {
  if (session.get().role !== "none") {
    session.set({ role: "none", message: key() ? NOT_VALID : NEEDS_KEY });
  }
};

export function author(): string {
  return sessionStorage.getItem(AUTHOR) ?? "";
}

export function keepAuthor(name: string): void {
  sessionStorage.setItem(AUTHOR, name);
}
