/** Small parts that all pages are made of. */

import type { ComponentChildren, VNode } from "preact";
import { useId } from "preact/hooks";

import { Problem } from "../api.ts";
import { time } from "../format.ts";

/** A part of a page with a heading; `about` says on what its figures stand: window, version, number of requests. */
export function Section(props: { title: string; about?: ComponentChildren; children: ComponentChildren }): VNode {
  const id = useId();
  return (
    <section aria-labelledby={id}>
      <h2 id={id}>{props.title}</h2>
      {props.about !== undefined && <p class="about">{props.about}</p>}
      {props.children}
    </section>
  );
}

/** What an error says, and the fields that it names. */
export function ProblemView(props: { error: Error | undefined }): VNode | null {
  const { error } = props;
  if (error === undefined) {
    return null;
  }
  const fields = error instanceof Problem ? error.errors : [];
  return (
    <div class="problem" role="alert">
      <strong>{error.message}</strong>
      {error instanceof Problem && error.detail && fields.length === 0 && <p>{error.detail}</p>}
      {fields.length > 0 && (
        <ul>
          {fields.map((field) => (
            <li key={field.field}>
              <code>{field.field}</code>: {field.message}
            </li>
          ))}
        </ul>
      )}
      {error instanceof Problem && error.requestId && <p class="about">request {error.requestId}</p>}
    </div>
  );
}

/** A table whose first cell of each row is its heading; it scrolls alone if it is wider than the page. */
export function Table(props: {
  caption: string;
  head: readonly ComponentChildren[];
  rows: readonly (readonly ComponentChildren[])[];
  numbers?: readonly number[];
  empty?: string;
}): VNode {
  if (props.rows.length === 0) {
    return <p class="empty">{props.empty ?? "Nothing here."}</p>;
  }
  const kind = (column: number): string => (props.numbers?.includes(column) ? "number" : "");
  return (
    <div class="scroll" role="region" aria-label={props.caption} tabIndex={0}>
      <table>
        <caption>{props.caption}</caption>
        <thead>
          <tr>
            {props.head.map((cell, column) => (
              <th key={column} scope="col" class={kind(column)}>
                {cell}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {props.rows.map((row, place) => (
            <tr key={place}>
              {row.map((cell, column) =>
                column === 0 ? (
                  <th key={column} scope="row" class={kind(column)}>
                    {cell}
                  </th>
                ) : (
                  <td key={column} class={kind(column)}>
                    {cell}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Field(props: { label: string; hint?: string; children: (id: string, hint?: string) => VNode }): VNode {
  const id = useId();
  const hint = props.hint === undefined ? undefined : `${id}-hint`;
  return (
    <div class="field">
      <label for={id}>{props.label}</label>
      {props.children(id, hint)}
      {props.hint !== undefined && (
        <span class="hint" id={hint}>
          {props.hint}
        </span>
      )}
    </div>
  );
}

export function Input(props: {
  label: string;
  value: string;
  onInput: (value: string) => void;
  hint?: string;
  type?: "text" | "password" | "number";
  required?: boolean;
}): VNode {
  return (
    <Field label={props.label} {...(props.hint === undefined ? {} : { hint: props.hint })}>
      {(id, hint) => {
        const common = {
          id,
          "aria-describedby": hint,
          value: props.value,
          required: props.required,
          autocomplete: "off",
          onInput: (event: { currentTarget: HTMLInputElement }) => props.onInput(event.currentTarget.value),
        };
        if (props.type === "password") {
          return <input type="password" {...common} />;
        }
        return props.type === "number" ? (
          <input type="number" step="any" {...common} />
        ) : (
          <input type="text" {...common} />
        );
      }}
    </Field>
  );
}

export function TextArea(props: {
  label: string;
  value: string;
  onInput: (value: string) => void;
  hint?: string;
  rows?: number;
}): VNode {
  return (
    <Field label={props.label} {...(props.hint === undefined ? {} : { hint: props.hint })}>
      {(id, hint) => (
        <textarea
          id={id}
          aria-describedby={hint}
          rows={props.rows ?? 4}
          spellcheck={false}
          value={props.value}
          onInput={(event) => props.onInput(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}

export function Select(props: {
  label: string;
  value: string;
  options: readonly (string | readonly [string, string])[];
  onInput: (value: string) => void;
}): VNode {
  return (
    <Field label={props.label}>
      {(id) => (
        <select id={id} value={props.value} onInput={(event) => props.onInput(event.currentTarget.value)}>
          {props.options.map((option) => {
            const [value, text] = typeof option === "string" ? [option, option] : option;
            return (
              <option key={value} value={value}>
                {text}
              </option>
            );
          })}
        </select>
      )}
    </Field>
  );
}

export function Time(props: { at: string | null | undefined }): VNode {
  return (
    <time dateTime={props.at ?? ""} title={props.at ?? ""}>
      {time(props.at)}
    </time>
  );
}
