/** Draws curves over time. The figures stand beside it as text, for those who cannot see it. */

import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Curve {
  label: string;
  values: readonly (number | null)[];
}

interface Props {
  title: string;
  /** Seconds since 1970. */
  times: readonly number[];
  curves: readonly Curve[];
}

const COLOURS = ["#2f6fd0", "#d9822b", "#3d9a50", "#a854c4", "#c94a4a", "#6b7885"];
const WIDTH = 560;
const HEIGHT = 190;

export function Chart(props: Props): VNode {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const labels = props.curves.map((curve) => curve.label).join("\n");
  useEffect(() => {
    plot.current = new uPlot(optionsOf(props), dataOf(props), place.current!);
    return () => plot.current?.destroy();
  }, [labels]);
  useEffect(() => plot.current?.setData(dataOf(props)), [props.times, props.curves]);
  return (
    <figure>
      <figcaption>{props.title}</figcaption>
      <div ref={place} role="img" aria-label={`${props.title}: ${summaryOf(props)}`} />
    </figure>
  );
}

function optionsOf(props: Props): uPlot.Options {
  const quiet = getComputedStyle(document.documentElement).color;
  const axis: uPlot.Axis = { stroke: quiet, grid: { width: 0.3 }, ticks: { width: 0.3 } };
  return {
    width: WIDTH,
    height: HEIGHT,
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_, __, highest) => [0, highest > 0 ? highest * 1.1 : 1] } },
    axes: [axis, { ...axis, size: 60 }],
    series: [
      {},
      ...props.curves.map((curve, index) => ({
        label: curve.label,
        stroke: COLOURS[index % COLOURS.length]!,
        width: 1.5,
      })),
    ],
  };
}

function dataOf(props: Props): uPlot.AlignedData {
  return [[...props.times], ...props.curves.map((curve) => [...curve.values])];
}

function summaryOf(props: Props): string {
  return props.curves.map((curve) => `${curve.label} is ${curve.values.at(-1) ?? "not known"} now`).join(", ");
}
