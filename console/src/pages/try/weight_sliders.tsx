/** Moves the weights of a profile, for this page alone. */

import type { VNode } from "preact";
import { useId } from "preact/hooks";

import { number } from "../../format.ts";
import type { Movable } from "./request.ts";

const STEPS = 100;

export function WeightSliders(props: {
  movable: readonly Movable[];
  weights: Record<string, number>;
  onMoved: (weights: Record<string, number>) => void;
  formula: string | undefined;
  /** Why nothing can be moved; empty if it can. */
  problem: string;
}): VNode {
  const { movable, weights } = props;
  const moved = Object.keys(weights).length > 0;
  return (
    <fieldset class="sliders">
      <legend>Weights (moving them changes this page only)</legend>
      {props.formula && (
        <p>
          <code>{props.formula}</code>
        </p>
      )}
      {props.problem ? (
        <p class="note">{props.problem}</p>
      ) : (
        movable.map((one) => (
          <Slider
            key={one.name}
            of={one}
            value={weights[one.name] ?? one.weight}
            onMoved={(value) => props.onMoved({ ...weights, [one.name]: value })}
          />
        ))
      )}
      <button type="button" disabled={!moved} onClick={() => props.onMoved({})}>
        Back to the document's weights
      </button>
    </fieldset>
  );
}

function Slider(props: { of: Movable; value: number; onMoved: (value: number) => void }): VNode {
  const { name, min, max, weight } = props.of;
  const id = useId();
  return (
    <div class="slider">
      <label for={id}>
        {name} <span class="about">(document: {number(weight)})</span>
      </label>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={(max - min) / STEPS}
        value={props.value}
        onInput={(event) => props.onMoved(Number(event.currentTarget.value))}
      />
      <output for={id}>{number(props.value)}</output>
    </div>
  );
}
