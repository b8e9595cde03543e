/** The page that ranks for a user and says why each item stands where it does. */

import type { VNode } from "preact";

import { get, send } from "../../api.ts";
import { ProblemView } from "../../parts/basic.tsx";
import { go, route } from "../../route.ts";
import type { Fusion, Ranking, Rules } from "../../types.ts";
import { useData } from "../../use_data.ts";
import { RankingView } from "./ranking_view.tsx";
import { askedOf, bodyOf, type Asked } from "./request.ts";
import { RequestForm } from "./request_form.tsx";

export function Try(): VNode {
  const { query } = route.use();
  const asked = askedOf(query);
  const other = query.get("other");
  const fusion = useData(() => get<Fusion>("/fusion"), []);
  const rules = useData(() => get<Rules>("/rules"), []);
  const complete = asked.user !== "" && asked.items.trim() !== "";
  const inputs = [asked.user, asked.items, asked.scene, asked.more];
  // A permalink is ranked anew, so that it shows the present versions, weights and rules.
  const ranking = useData(async () => (complete ? rank(asked) : null), inputs);
  const compared = useData(
    async () => (complete && other !== null ? rank({ ...asked, scene: other }) : null),
    [...inputs, other],
  );
  const scenes = [
    ...new Set([
      ...Object.keys(fusion.value?.scenes ?? {}),
      ...Object.keys(rules.value?.rules ?? {}).filter((name) => name !== "default"),
    ]),
  ];
  const shown = ranking.value;
  return (
    <>
      <RequestForm asked={asked} scenes={scenes} />
      <ProblemView error={ranking.error} />
      <ProblemView error={compared.error} />
      {shown && (
        <RankingView
          key={shown.request_id}
          asked={asked}
          ranking={shown}
          fusion={fusion.value}
          scenes={scenes}
          other={other}
          compared={other === null ? null : (compared.value ?? null)}
          onOther={(scene) => go("try", { ...queryOf(asked), ...(scene === null ? {} : { other: scene }) })}
        />
      )}
    </>
  );
}

function rank(asked: Asked): Promise<Ranking> {
  return send<Ranking>("POST", "/rank", bodyOf(asked));
}

export function queryOf(asked: Asked): Record<string, string> {
  return { ...asked };
}
