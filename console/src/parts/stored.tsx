/** What the store has of a user or an item, decoded. */

import type { VNode } from "preact";

import { Problem, get } from "../api.ts";
import { bytes, count, duration, number } from "../format.ts";
import { useData } from "../use_data.ts";
import { ProblemView, Section, Table, Time } from "./basic.tsx";

/** The numbers of a vector that are shown. */
const NUMBERS_SHOWN = 8;

interface Value {
  keys?: readonly string[];
  values?: readonly (string | null)[];
  number?: number | null;
  vector?: readonly number[];
  missing?: boolean;
}

interface Row {
  bytes: number;
  expires_in_s: number | null;
  written_s_ago: number | null;
  problem: string | null;
  features: Record<string, Value>;
}

interface Behaviour {
  at: string;
  action: Value | null;
  scene: Value | null;
  features: Record<string, Value>;
  problem: string | null;
}

interface Schema {
  fingerprint: string;
  in_use: boolean;
  loaded_at: string | null;
  row: Row | null;
  behaviours?: {
    n: number;
    newest_at: string | null;
    oldest_at: string | null;
    expires_in_s: number | null;
    newest: readonly Behaviour[];
  } | null;
}

export interface Stored {
  entity: "user" | "item";
  id: string;
  exists: boolean;
  schemas: readonly Schema[];
}

export function StoredUser(props: { id: string }): VNode {
  return <StoredEntity title={`User ${props.id} in the store`} path={`/store/users/${encodeURIComponent(props.id)}`} />;
}

export function StoredItem(props: { id: string }): VNode {
  return <StoredEntity title={`Item ${props.id} in the store`} path={`/store/items/${encodeURIComponent(props.id)}`} />;
}

function StoredEntity(props: { title: string; path: string }): VNode {
  const stored = useData(() => get<Stored>(props.path), [props.path]);
  const absent = stored.error instanceof Problem && stored.error.status === 404;
  return (
    <Section title={props.title} about={stored.at && `Read at ${stored.at.toLocaleTimeString()}.`}>
      {absent ? <p class="empty">{(stored.error as Problem).detail}</p> : <ProblemView error={stored.error} />}
      {stored.value?.schemas.map((schema) => (
        <SchemaView key={schema.fingerprint} schema={schema} />
      ))}
    </Section>
  );
}

function SchemaView(props: { schema: Schema }): VNode {
  const { schema } = props;
  const { row, behaviours } = schema;
  return (
    <>
      <h3>
        Schema {schema.fingerprint}
        {schema.in_use ? ", in use" : ", not in use"}
      </h3>
      {row === null ? (
        <p class="empty">It has no row; rankings use the defaults.</p>
      ) : (
        <>
          <p class="about">{aboutRow(row)}</p>
          {row.problem && <p class="problem">{row.problem}</p>}
          <details open={!behaviours}>
            <summary>{count(Object.keys(row.features).length)} features</summary>
            <Table
              caption="Features"
              head={["Feature", "Value"]}
              rows={Object.entries(row.features).map(([name, value]) => [name, textOf(value)])}
            />
          </details>
        </>
      )}
      {behaviours && (
        <>
          <p class="about">
            {count(behaviours.n)} behaviours, <Time at={behaviours.oldest_at} /> to <Time at={behaviours.newest_at} />;
            the newest {count(behaviours.newest.length)} are shown.
          </p>
          <Table {...behaviourTable(behaviours.newest)} />
        </>
      )}
    </>
  );
}

function aboutRow(row: Row): string {
  const expires = row.expires_in_s === null ? "does not expire" : `expires in ${duration(row.expires_in_s)}`;
  const written = row.written_s_ago === null ? "" : `, written ${duration(row.written_s_ago)} ago`;
  return `${bytes(row.bytes)}, ${expires}${written}.`;
}

function behaviourTable(behaviours: readonly Behaviour[]): {
  caption: string;
  head: string[];
  rows: (string | VNode)[][];
} {
  const names = [...new Set(behaviours.flatMap((one) => Object.keys(one.features)))];
  return {
    caption: "Behaviours, newest first",
    head: ["When", "Action", "Scene", ...names],
    rows: behaviours.map((one) => [
      <Time at={one.at} />,
      one.problem ?? textOf(one.action),
      textOf(one.scene),
      ...names.map((name) => textOf(one.features[name])),
    ]),
  };
}

/** The text of a value; a hash whose text is not known is shown as it is stored. */
function textOf(value: Value | null | undefined): string {
  if (value === null || value === undefined || value.missing) {
    return "missing";
  }
  if (value.number !== undefined && value.number !== null) {
    return number(value.number);
  }
  if (value.vector !== undefined) {
    const shown = value.vector.slice(0, NUMBERS_SHOWN).map(number).join(", ");
    return `${value.vector.length} numbers: ${shown}${value.vector.length > NUMBERS_SHOWN ? ", …" : ""}`;
  }
  return (value.keys ?? []).map((key, place) => value.values?.[place] ?? `#${key}`).join(", ") || "missing";
}
