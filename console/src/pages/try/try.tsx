/** The page that ranks for a user and says why each item stands where it does. */

import type { VNode } from "preact";

import { get, send } from "../../api.ts";
import { label } from "../../format.ts";
import { ProblemView } from "../../parts/basic.tsx";
import { go, route } from "../../route.ts";
import type { Fusion, Models, Ranking, Rules } from "../../types.ts";
import { useData } from "../../use_data.ts";
import { Choices, type Names } from "./choices.tsx";
import { RankingView } from "./ranking_view.tsx";
import {
  askedOf,
  callOf,
  choiceFields,
  choiceOf,
  otherCallOf,
  otherOf,
  type Asked,
  type Choice,
  type Other,
  type RankBody,
} from "./request.ts";
import { RequestForm } from "./request_form.tsx";

const NOTHING: Other = { scene: "", version: "", profile: "", rules: "" };
const SHOWN = "by_"; // the prefix of the choice for the ranking itself in the address

export function Try(): VNode {
  const { query } = route.use();
  const asked = askedOf(query);
  const choice = choiceOf(query, SHOWN);
  const other = otherOf(query);
  const fusion = useData(() => get<Fusion>("/fusion"), []);
  const rules = useData(() => get<Rules>("/rules"), []);
  const models = useData(() => get<Models>("/models"), []);
  const complete = asked.user !== "" && asked.items.trim() !== "";
  const inputs = [asked.user, asked.items, asked.scene, asked.more];
  // A permalink is ranked anew, so that it shows the present versions, weights and rules.
  const ranking = useData(
    async () => (complete ? rank(callOf(asked, choice)) : null),
    [...inputs, ...Object.values(choice)],
  );
  const compared = useData(
    async () => (complete && other !== null ? rank(otherCallOf(asked, other)) : null),
    [...inputs, ...Object.values(other ?? NOTHING)],
  );
  const names = namesOf(fusion.value, rules.value, models.value);
  const show = (nextAsked: Asked, nextChoice: Choice, next: Other): void => {
    const { scene, ...beside } = next;
    go("try", { ...nextAsked, ...choiceFields(nextChoice, SHOWN), other: scene, ...choiceFields(beside, "") });
  };
  const shown = ranking.value;
  return (
    <>
      <RequestForm asked={asked} scenes={names.scenes} onAsked={(next) => show(next, choice, other ?? NOTHING)} />
      {complete && (
        <Choices
          names={names}
          choice={choice}
          other={other ?? NOTHING}
          onChange={(nextChoice, next) => show(asked, nextChoice, next)}
        />
      )}
      <ProblemView error={ranking.error} />
      <ProblemView error={compared.error} />
      {shown && (
        <RankingView
          key={shown.request_id}
          asked={asked}
          choice={choice}
          ranking={shown}
          fusion={fusion.value}
          compared={other === null ? null : (compared.value ?? null)}
        />
      )}
    </>
  );
}

function rank(call: { path: string; body: RankBody }): Promise<Ranking> {
  return send<Ranking>("POST", call.path, call.body);
}

function namesOf(fusion: Fusion | undefined, rules: Rules | undefined, models: Models | undefined): Names {
  const lists = Object.entries(rules?.rules ?? {});
  const scenes = [...Object.keys(fusion?.scenes ?? {}), ...lists.map(([name]) => name)];
  return {
    scenes: [...new Set(scenes.filter((name) => name !== "default"))],
    versions: (models?.worker.loaded ?? []).map(label),
    profiles: Object.keys(fusion?.profiles ?? {}),
    rules: lists.filter(([, list]) => list.length > 0).map(([name]) => name),
  };
}
