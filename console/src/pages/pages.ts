/** All pages, in the order of the navigation. The first one is shown where the address names none. */

import type { FunctionComponent } from "preact";

import { Try } from "./try/try.tsx";
import { Versions } from "./versions/versions.tsx";

export interface Page {
  path: string;
  title: string;
  view: FunctionComponent;
}

export const PAGES: readonly Page[] = [
  { path: "versions", title: "Versions", view: Versions },
  { path: "try", title: "Try a ranking", view: Try },
];
