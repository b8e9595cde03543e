/** Chooses what ranks (version, profile, rules) and what stands beside it; no choice leaves what the user and scene have. */

import type { VNode } from "preact";

import { Section, Select } from "../../parts/basic.tsx";
import { NONE, type Choice, type Other } from "./request.ts";

/** The names that there are. `rules` are the lists with a rule. */
export interface Names {
  scenes: readonly string[];
  versions: readonly string[];
  profiles: readonly string[];
  rules: readonly string[];
}

type Options = readonly (readonly [string, string])[];

export function Choices(props: {
  names: Names;
  choice: Choice;
  other: Other;
  onChange: (choice: Choice, other: Other) => void;
}): VNode {
  const { names, choice, other, onChange } = props;
  const options: Record<keyof Choice, Options> = {
    version: named(names.versions),
    profile: named(names.profiles),
    rules: [[NONE, "no rules"], ...named(names.rules)],
  };
  const fields = Object.entries(options) as [keyof Choice, Options][];
  return (
    <Section
      title="What ranks"
      about="Any loaded version, profile and list of rules, also those that no scene uses. Such a ranking is not counted as traffic."
    >
      <div class="row">
        {fields.map(([field, known]) => (
          <Select
            key={field}
            label={`Rank by the ${field}`}
            value={choice[field]}
            options={withPresent([["", OWN[field]], ...known], choice[field])}
            onInput={(name) => onChange({ ...choice, [field]: name }, other)}
          />
        ))}
      </div>
      <div class="row">
        <Select
          label="Compare with the scene"
          value={other.scene}
          options={withPresent([["", "the same"], [NONE, "none (default)"], ...named(names.scenes)], other.scene)}
          onInput={(scene) => onChange(choice, { ...other, scene })}
        />
        {fields.map(([field, known]) => (
          <Select
            key={field}
            label={`Compare with the ${field}`}
            value={other[field]}
            options={withPresent([["", OWN[field]], ...known], other[field])}
            onInput={(name) => onChange(choice, { ...other, [field]: name })}
          />
        ))}
      </div>
    </Section>
  );
}

const OWN: Record<keyof Choice, string> = { version: "the user's", profile: "the scene's", rules: "the scene's" };

function named(names: readonly string[]): Options {
  return names.map((name) => [name, name] as const);
}

/** The address may name something that is no longer there; the service's answer says so. */
function withPresent(options: Options, value: string): Options {
  return options.some(([known]) => known === value) ? options : [...options, [value, value] as const];
}
