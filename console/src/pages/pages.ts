/** All pages, in the order of the navigation. The first one is shown where the address names none. */

import type { FunctionComponent } from "preact";

import { Now } from "./now.tsx";
import { Quality } from "./quality.tsx";
import { Store } from "./store.tsx";
import { Try } from "./try/try.tsx";
import { Versions } from "./versions/versions.tsx";
import { Weights } from "./weights/weights.tsx";

export interface Page {
  path: string;
  title: string;
  view: FunctionComponent;
}

export const PAGES: readonly Page[] = [
  { path: "now", title: "Now", view: Now },
  { path: "versions", title: "Versions", view: Versions },
  { path: "try", title: "Try a ranking", view: Try },
  { path: "weights", title: "Weights and rules", view: Weights },
  { path: "store", title: "Store", view: Store },
  { path: "quality", title: "Quality", view: Quality },
];
