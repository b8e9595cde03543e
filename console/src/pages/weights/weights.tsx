/** The page of fusion weights and rules: both are documents that are edited, previewed, changed and restored alike. */

import type { VNode } from "preact";

import { get } from "../../api.ts";
import { link, route } from "../../route.ts";
import type { Fusion, FusionContent, Rules, RulesContent } from "../../types.ts";
import { DocumentEditor } from "./document_editor.tsx";
import { Experiments } from "./experiments.tsx";
import { ProfileEditor } from "./profile_editor.tsx";
import { RuleLists } from "./rule_lists.tsx";

export function Weights(): VNode {
  const { query } = route.use();
  const shown = query.get("document") === "rules" ? "rules" : "weights";
  return (
    <>
      <nav class="tabs" aria-label="Documents">
        {(["weights", "rules"] as const).map((name) => (
          <a key={name} href={link("weights", { document: name })} aria-current={name === shown ? "page" : undefined}>
            {name === "weights" ? "Weights (fusion)" : "Rules"}
          </a>
        ))}
      </nav>
      {shown === "weights" ? <FusionDocument key="fusion" /> : <RulesDocument key="rules" />}
    </>
  );
}

function FusionDocument(): VNode {
  return (
    <DocumentEditor<Fusion, FusionContent>
      path="/fusion"
      title="fusion document"
      read={() => get<Fusion>("/fusion")}
      contentOf={({ profiles, scenes, experiments }) => ({ profiles, scenes, experiments: experiments ?? {} })}
    >
      {(draft, onDraft, document, errors) => (
        <>
          <ProfileEditor draft={draft} onDraft={onDraft} tasks={document.tasks} errors={errors} />
          <Experiments experiments={draft.experiments} />
        </>
      )}
    </DocumentEditor>
  );
}

function RulesDocument(): VNode {
  return (
    <DocumentEditor<Rules, RulesContent>
      path="/rules"
      title="rules document"
      read={() => get<Rules>("/rules")}
      contentOf={({ rules, experiments }) => ({ rules, experiments: experiments ?? {} })}
    >
      {(draft) => (
        <>
          <RuleLists rules={draft.rules} />
          <Experiments experiments={draft.experiments} />
        </>
      )}
    </DocumentEditor>
  );
}
