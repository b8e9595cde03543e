/** A value that several components show: they are drawn again when it changes. */

import { useEffect, useState } from "preact/hooks";

export interface Shared<Value> {
  get(): Value;
  set(value: Value): void;
  /** The value, in a component. */
  use(): Value;
}

export function shared<Value>(initial: Value): Shared<Value> {
  let value = initial;
  const listeners = new Set<() => void>();
  return {
    get: () => value,
    set(next) {
      if (next !== value) {
        value = next;
        listeners.forEach((listener) => listener());
      }
    },
    use() {
      const [, redraw] = useState(0);
      useEffect(() => {
        const listener = (): void => redraw((count) => count + 1);
        listeners.add(listener);
        listener(); // the value may have changed between the first drawing and this effect
        return () => void listeners.delete(listener);
      }, []);
      return value;
    },
  };
}
