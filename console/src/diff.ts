/** Compares two documents line by line. */

export interface DiffLine {
  kind: "same" | "removed" | "added";
  text: string;
}

const MOST_LINES = 2000;
const CONTEXT = 2;

/** The lines of both documents, as JSON with sorted names, so that the order of names is no difference. */
export function diffOf(before: unknown, after: unknown): DiffLine[] {
  return diffOfLines(linesOf(before), linesOf(after));
}

/** Without the commas at the ends, by which the last entry of a list would differ from the same entry elsewhere. */
function linesOf(value: unknown): string[] {
  const lines = value === undefined ? [] : JSON.stringify(sorted(value), null, 2).split("\n");
  return lines.map((line) => line.replace(/,$/, ""));
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(sorted);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([name, inner]) => [name, sorted(inner)]));
}

/** A shortest list of removed and added lines (longest common subsequence). */
export function diffOfLines(before: readonly string[], after: readonly string[]): DiffLine[] {
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) {
    start++;
  }
  let end = 0;
  const most = Math.min(before.length, after.length) - start;
  while (end < most && before[before.length - 1 - end] === after[after.length - 1 - end]) {
    end++;
  }
  const old = before.slice(start, before.length - end);
  const young = after.slice(start, after.length - end);
  return [
    ...before.slice(0, start).map((text): DiffLine => ({ kind: "same", text })),
    ...middleOf(old, young),
    ...before.slice(before.length - end).map((text): DiffLine => ({ kind: "same", text })),
  ];
}

function middleOf(old: readonly string[], young: readonly string[]): DiffLine[] {
  const lines: DiffLine[] = [];
  let i = 0;
  let j = 0;
  // The table has old x young entries. Documents that differ in more lines are shown as replaced.
  if (old.length <= MOST_LINES && young.length <= MOST_LINES) {
    const lengths = commonLengths(old, young);
    const width = young.length + 1;
    while (i < old.length && j < young.length) {
      if (old[i] === young[j]) {
        lines.push({ kind: "same", text: old[i++]! });
        j++;
      } else if (lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!) {
        lines.push({ kind: "removed", text: old[i++]! });
      } else {
        lines.push({ kind: "added", text: young[j++]! });
      }
    }
  }
  const rest = old.slice(i).map((text): DiffLine => ({ kind: "removed", text }));
  return [...lines, ...rest, ...young.slice(j).map((text): DiffLine => ({ kind: "added", text }))];
}

/** At i * width + j: how many lines the parts from old[i] and young[j] on have in common. */
function commonLengths(old: readonly string[], young: readonly string[]): Uint16Array {
  const width = young.length + 1;
  const lengths = new Uint16Array((old.length + 1) * width);
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = young.length - 1; j >= 0; j--) {
      const here = i * width + j;
      lengths[here] =
        old[i] === young[j] ? lengths[here + width + 1]! + 1 : Math.max(lengths[here + width]!, lengths[here + 1]!);
    }
  }
  return lengths;
}

/** The differences with two lines around each; null stands for lines that are left out. */
export function shortened(lines: readonly DiffLine[]): (DiffLine | null)[] {
  const near = lines.map((_, place) =>
    lines.slice(Math.max(0, place - CONTEXT), place + CONTEXT + 1).some((line) => line.kind !== "same"),
  );
  const shown: (DiffLine | null)[] = [];
  lines.forEach((line, place) => {
    if (near[place]) {
      shown.push(line);
    } else if (shown.at(-1) !== null) {
      shown.push(null);
    }
  });
  return shown.some((line) => line !== null) ? shown : [];
}
