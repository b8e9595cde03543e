/** Reads the text form of Prometheus, as `/metrics` has it. */

import { sent } from "./api.ts";

export interface Sample {
  name: string;
  labels: Readonly<Record<string, string>>;
  value: number;
}

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export function samplesOf(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const parts = line.startsWith("#") ? null : LINE.exec(line);
    if (parts) {
      const labels: Record<string, string> = {};
      for (const [, name, value] of (parts[2] ?? "").matchAll(LABEL)) {
        labels[name!] = value!.replace(/\\(.)/g, (_, character: string) => (character === "n" ? "\n" : character));
      }
      samples.push({ name: parts[1]!, labels, value: Number(parts[3]) });
    }
  }
  return samples;
}

export async function getMetrics(): Promise<Sample[]> {
  return samplesOf(await sent("GET", "/metrics"));
}

export function matching(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>>): Sample[] {
  const conditions = Object.entries(labels);
  return samples.filter(
    (one) => one.name === name && conditions.every(([key, value]) => (one.labels[key] ?? "") === value),
  );
}

export function sum(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}): number {
  return matching(samples, name, labels).reduce((total, one) => total + one.value, 0);
}

/** The mean of a histogram; null if it is empty. */
export function mean(
  samples: readonly Sample[],
  name: string,
  labels: Readonly<Record<string, string>>,
): number | null {
  const n = sum(samples, `${name}_count`, labels);
  return n > 0 ? sum(samples, `${name}_sum`, labels) / n : null;
}
