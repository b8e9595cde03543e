/** The frame of all pages: navigation, key, and what there is to say about the connection. */

import type { VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import { key, lostSince } from "./api.ts";
import { PAGES } from "./pages/pages.ts";
import { link, route } from "./route.ts";
import { checkKey, session, useKey } from "./session.ts";
import { Input } from "./parts/basic.tsx";

export function App(): VNode {
  const { page } = route.use();
  const { role, message } = session.use();
  const lost = lostSince.use();
  useEffect(() => {
    if (lost === null) {
      void checkKey();
    }
  }, [lost === null]);
  const shown = PAGES.find((each) => each.path === page) ?? PAGES[0]!;
  useEffect(() => {
    document.title = `${shown.title} – funnelrank`;
  }, [shown]);
  const Page = shown.view;
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        To the content
      </a>
      <header>
        <strong class="brand">funnelrank</strong>
        <nav aria-label="Pages">
          {PAGES.map((each) => (
            <a key={each.path} href={link(each.path)} aria-current={each === shown ? "page" : undefined}>
              {each.title}
            </a>
          ))}
        </nav>
        <KeyForm />
      </header>
      <div aria-live="assertive">
        {lost && (
          <p class="lost" role="alert">
            No answer from the service since {lost.toLocaleTimeString()}. What is shown is from before; it is asked
            again every two seconds.
          </p>
        )}
      </div>
      <main id="main" tabIndex={-1}>
        <h1>{shown.title}</h1>
        {message && (
          <p class="note" role="status">
            {message}
          </p>
        )}
        {(role === "read" || role === "operate") && <Page />}
      </main>
    </>
  );
}

/** The part of the address after `#` names the page, so this link moves the focus itself. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

const ROLES = { unknown: "…", none: "no access", read: "may look", operate: "may look and change" } as const;

function KeyForm(): VNode {
  const { role } = session.use();
  const [text, setText] = useState("");
  const [open, setOpen] = useState(false);
  if (!open && role !== "none") {
    return (
      <div class="key">
        <span>
          Role: <strong>{ROLES[role]}</strong>
        </span>
        <button type="button" onClick={() => setOpen(true)}>
          {key() ? "Another key" : "Enter a key"}
        </button>
        {key() && (
          <button type="button" onClick={() => void useKey("")}>
            Forget the key
          </button>
        )}
      </div>
    );
  }
  return (
    <form
      class="key"
      onSubmit={(event) => {
        event.preventDefault();
        void useKey(text).then(() => {
          setText("");
          setOpen(false);
        });
      }}
    >
      <Input label="Key (kept until this tab is closed)" type="password" value={text} onInput={setText} required />
      <button type="submit" class="main">
        Use this key
      </button>
      {role !== "none" && (
        <button type="button" onClick={() => setOpen(false)}>
          Cancel
        </button>
      )}
    </form>
  );
}
