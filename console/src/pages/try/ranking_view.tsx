/** A ranking with the weights that may be moved, another ranking beside it, and the user's behaviours. */

import type { VNode } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { send } from "../../api.ts";
import { count, label, percent } from "../../format.ts";
import { ProblemView, Section } from "../../parts/basic.tsx";
import { StoredUser } from "../../parts/stored.tsx";
import type { Fusion, Ranking } from "../../types.ts";
import { RankedItems } from "./ranked_items.tsx";
import { callOf, movableWeights, profileOf, ranksOf, reweighted, type Asked, type Choice } from "./request.ts";
import { WeightSliders } from "./weight_sliders.tsx";

const PAUSE_MS = 120; // between two moves of a slider, before the service is asked
const TOP = 10;

interface Props {
  asked: Asked;
  ranking: Ranking;
  fusion: Fusion | undefined;
  /** What ranks in place of the user's and the scene's own. */
  choice: Choice;
  compared: Ranking | null;
}

export function RankingView(props: Props): VNode {
  const { asked, choice, ranking, fusion } = props;
  const profile = profileOf(fusion, ranking);
  const [weights, setWeights] = useState<Record<string, number>>({});
  const moved = useReweighted(asked, choice, ranking, fusion, weights);
  const shown = moved.ranking ?? ranking;
  const beside = moved.ranking ? ranking : props.compared;
  const ranks = useMemo(() => (beside ? ranksOf(beside) : null), [beside]);
  return (
    <>
      <Section title="Ranking" about={aboutOf(shown, moved.isLocal)}>
        {shown.degraded.length > 0 && <p class="note">Not all that it could be: {shown.degraded.join(", ")}.</p>}
        {profile && (
          <WeightSliders
            movable={movableWeights(profile)}
            weights={weights}
            onMoved={setWeights}
            formula={profile.formula}
            problem={fusion?.overrides_allowed || profile.kind !== "formula" ? "" : NO_OVERRIDES}
          />
        )}
        <ProblemView error={moved.error} />
        {beside && (
          <p class="about" role="status">
            {moved.ranking ? "Beside it: the ranking with the weights of the document" : "Beside it:"}{" "}
            {!moved.ranking && aboutOf(beside, false)} {overlapOf(shown, beside)}
          </p>
        )}
        <RankedItems ranking={shown} ranksBeside={ranks} />
      </Section>
      <StoredUser id={asked.user} />
    </>
  );
}

const NO_OVERRIDES =
  "A formula is computed by the service, which takes other weights where FUNNELRANK_FUSION_OVERRIDES is true.";

function aboutOf(ranking: Ranking, isLocal: boolean): string {
  const { model, fusion, rules, coverage } = ranking;
  const line = model.line ? `, line ${model.line}` : "";
  const arm = fusion.experiment ? `, arm ${fusion.arm} of ${fusion.experiment}` : "";
  const ruled = rules ? `rules ${rules.name}, revision ${rules.revision}` : "no rules";
  return (
    `${label(model)} (${model.role}${line}); profile ${fusion.profile}, revision ${fusion.revision}${arm}; ` +
    `${isLocal ? "computed in this page, before rules" : ruled}; ` +
    `n = ${count(coverage.scored)} of ${count(coverage.requested)} candidates scored; request ${ranking.request_id}.`
  );
}

function overlapOf(shown: Ranking, beside: Ranking): string {
  const first = new Set(beside.ranking.slice(0, TOP).map((item) => item.item_id));
  const top = shown.ranking.slice(0, TOP);
  const common = top.filter((item) => first.has(item.item_id)).length;
  return `Of the first ${top.length}, ${percent(top.length > 0 ? common / top.length : null)} are the same.`;
}

interface Reweighted {
  /** Null while the weights are those of the document. */
  ranking: Ranking | null;
  isLocal: boolean;
  error: Error | undefined;
}

const UNMOVED: Reweighted = { ranking: null, isLocal: false, error: undefined };

/** The ranking with other weights: the service's own where it takes them, else computed from the task scores here. */
function useReweighted(
  asked: Asked,
  choice: Choice,
  ranking: Ranking,
  fusion: Fusion | undefined,
  weights: Record<string, number>,
): Reweighted {
  const [result, setResult] = useState<Reweighted>(UNMOVED);
  const newest = useRef(0);
  useEffect(() => {
    const turn = ++newest.current;
    const profile = profileOf(fusion, ranking);
    if (profile === undefined || Object.keys(weights).length === 0) {
      setResult(UNMOVED);
      return undefined;
    }
    const local = reweighted(ranking, profile, weights);
    if (!fusion?.overrides_allowed) {
      setResult({ ranking: local, isLocal: true, error: undefined });
      return undefined;
    }
    const timer = setTimeout(() => {
      const { path, body } = callOf(asked, choice);
      send<Ranking>("POST", path, { ...body, fusion: { weights } }).then(
        (answer) => turn === newest.current && setResult({ ranking: answer, isLocal: false, error: undefined }),
        (error: Error) => turn === newest.current && setResult({ ranking: null, isLocal: false, error }),
      );
    }, PAUSE_MS);
    return () => clearTimeout(timer);
  }, [weights, ranking, fusion]);
  return result;
}
