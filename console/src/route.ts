/** The page that is shown and what it shows are in the part of the address after `#`, so every state has a link. */

import { shared } from "./shared.ts";

export interface Route {
  page: string;
  query: URLSearchParams;
}

export const route = shared<Route>(routeOf(location.hash));
addEventListener("hashchange", () => route.set(routeOf(location.hash)));

function routeOf(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { page: path, query: new URLSearchParams(query) };
}

export function link(page: string, query: Readonly<Record<string, string>> = {}): string {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "")).toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

/** Show another state. With `replaces` the browser's way back skips the present one. */
export function go(page: string, query: Readonly<Record<string, string>> = {}, replaces = false): void {
  if (!replaces) {
    location.hash = link(page, query);
    return;
  }
  history.replaceState(null, "", link(page, query));
  route.set(routeOf(location.hash));
}
