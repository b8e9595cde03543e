/** The page that ranks for a user and says why each item stands where it does. */

import type { VNode } from "preact";

import { get, send } from "../../api.ts";
import { label } from "../../format.ts";
import { ProblemView } from "../../parts/basic.tsx";
import { go, route } from "../../route.ts";
import type { Fusion, Models, Ranking, Rules } from "../../types.ts";
import { useData } from "../../use_data.ts";
import { RankingView } from "./ranking_view.tsx";
import { NO_SCENE, askedOf, bodyOf, type Asked, type Other } from "./request.ts";
import { RequestForm } from "./request_form.tsx";

export function Try(): VNode {
  const { query } = route.use();
  const asked = askedOf(query);
  const other = otherOf(query);
  const fusion = useData(() => get<Fusion>("/fusion"), []);
  const rules = useData(() => get<Rules>("/rules"), []);
  const models = useData(() => get<Models>("/models"), []);
  const complete = asked.user !== "" && asked.items.trim() !== "";
  const inputs = [asked.user, asked.items, asked.scene, asked.more];
  // A permalink is ranked anew, so that it shows the present versions, weights and rules.
  const ranking = useData(async () => (complete ? rank(asked) : null), inputs);
  const compared = useData(
    async () => (complete && other !== null ? rankOther(asked, other) : null),
    [...inputs, other?.kind, other?.name],
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
          versions={(models.value?.worker.loaded ?? []).map(label)}
          onOther={(next) => go("try", { ...asked, ...(next === null ? {} : { [next.kind]: next.name || NO_SCENE }) })}
        />
      )}
    </>
  );
}

function rank(asked: Asked): Promise<Ranking> {
  return send<Ranking>("POST", "/rank", bodyOf(asked));
}

/** By a version, the ranking is not counted as traffic. */
function rankOther(asked: Asked, other: Other): Promise<Ranking> {
  if (other.kind === "version") {
    return send<Ranking>("POST", "/rank/preview", { ...bodyOf(asked), version: other.name });
  }
  return rank({ ...asked, scene: other.name });
}

function otherOf(query: URLSearchParams): Other | null {
  const version = query.get("version");
  const scene = query.get("other");
  if (version !== null) {
    return { kind: "version", name: version };
  }
  return scene === null ? null : { kind: "other", name: scene === NO_SCENE ? "" : scene };
}
