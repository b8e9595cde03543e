/** The page that shows what the store has for a user or an item. */

import type { VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import { Input, Section, Select } from "../parts/basic.tsx";
import { StoredItem, StoredUser } from "../parts/stored.tsx";
import { go, route } from "../route.ts";

export function Store(): VNode {
  const { query } = route.use();
  const id = query.get("id") ?? "";
  const kind = query.get("kind") === "items" ? "items" : "users";
  const [draft, setDraft] = useState({ id, kind });
  useEffect(() => setDraft({ id, kind }), [id, kind]);
  return (
    <>
      <Section
        title="Look up"
        about="Rows are decoded by every schema that the store holds; hashes whose text is not known begin with #."
      >
        <form
          class="row"
          onSubmit={(event) => {
            event.preventDefault();
            go("store", draft);
          }}
        >
          <Select
            label="What"
            value={draft.kind}
            options={[
              ["users", "User"],
              ["items", "Item"],
            ]}
            onInput={(value) => setDraft({ ...draft, kind: value === "items" ? "items" : "users" })}
          />
          <Input label="Id" value={draft.id} onInput={(value) => setDraft({ ...draft, id: value })} required />
          <button type="submit" class="main">
            Look up
          </button>
        </form>
      </Section>
      {id !== "" && (kind === "items" ? <StoredItem key={id} id={id} /> : <StoredUser key={id} id={id} />)}
    </>
  );
}
