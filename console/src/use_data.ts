/** Reads something of the API for a component, again at intervals while somebody looks at the page. */

import { useEffect, useRef, useState } from "preact/hooks";

import { NoConnection, epoch } from "./api.ts";

export interface Data<Value> {
  value: Value | undefined;
  /** Why it could not be read the last time; a lost connection is shown at the top of the page instead. */
  error: Error | undefined;
  at: Date | undefined;
  reload(): void;
}

export function useData<Value>(load: () => Promise<Value>, inputs: readonly unknown[], everyMs?: number): Data<Value> {
  const [state, setState] = useState<Omit<Data<Value>, "reload">>({
    value: undefined,
    error: undefined,
    at: undefined,
  });
  const [reloads, setReloads] = useState(0);
  const newest = useRef(0);
  const present = epoch.use();
  useEffect(() => {
    const turn = ++newest.current;
    const read = async (): Promise<void> => {
      if (document.hidden) {
        return; // a page that nobody looks at costs the service nothing
      }
      try {
        const value = await load();
        if (turn === newest.current) {
          setState({ value, error: undefined, at: new Date() });
        }
      } catch (error) {
        if (turn === newest.current && !(error instanceof NoConnection)) {
          setState((before) => ({ ...before, error: error as Error }));
        }
      }
    };
    void read();
    document.addEventListener("visibilitychange", read);
    const timer = everyMs === undefined ? undefined : setInterval(read, everyMs);
    return () => {
      newest.current++;
      clearInterval(timer);
      document.removeEventListener("visibilitychange", read);
    };
  }, [...inputs, reloads, present]);
  return { ...state, reload: () => setReloads((count) => count + 1) };
}
