/** Writes numbers and times as a person reads them. */

export function count(value: number): string {
  return value.toLocaleString("en", { maximumFractionDigits: 0 });
}

/** Four significant digits. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) {
    return "–";
  }
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) {
    return value.toExponential(2);
  }
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

export function percent(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) {
    return "–";
  }
  return `${(100 * share).toLocaleString("en", { maximumFractionDigits: Math.abs(share) < 0.01 ? 3 : 1 })} %`;
}

export function milliseconds(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : `${number(value)} ms`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return "–";
  }
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) {
    value /= 1024;
    place++;
  }
  return `${number(value)} ${units[place]}`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) {
    return "–";
  }
  const [size, unit] = (
    [
      [86_400, "d"],
      [3600, "h"],
      [60, "min"],
    ] as const
  ).find(([s]) => seconds >= 2 * s) ?? [1, "s"];
  return `${number(Math.round((10 * seconds) / size) / 10)} ${unit}`;
}

/** The local time; the title of the element has the text as the service wrote it. */
export function time(text: string | null | undefined): string {
  const date = new Date(text ?? "");
  return Number.isNaN(date.getTime()) ? (text ?? "") : date.toLocaleString();
}

export function label(target: { name: string; version: string } | null | undefined): string {
  return target ? `${target.name}/${target.version}` : "none";
}
