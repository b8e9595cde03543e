/** The rules of each scene, in the operator's order. */

import type { VNode } from "preact";

import { Table } from "../../parts/basic.tsx";
import type { RulesContent } from "../../types.ts";

export function RuleLists(props: { rules: RulesContent["rules"] | undefined }): VNode {
  const rows = Object.entries(props.rules ?? {}).flatMap(([scene, list]) =>
    Array.isArray(list)
      ? (list as Record<string, unknown>[]).map((rule, place) => {
          const { type, ...options } = rule;
          return [scene, `${place}:${String(type)}`, <code>{JSON.stringify(options)}</code>];
        })
      : [],
  );
  return (
    <Table
      caption="Rules by scene; rules of positions are relaxed from the end of a list"
      head={["Scene", "Rule", "Options"]}
      rows={rows}
      empty='No rules. An example for the JSON below: {"rules": {"default": [{"type": "block", "item_ids": ["7"]}]}, "experiments": {}}'
    />
  );
}
