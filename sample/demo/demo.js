// Ranks the sample's videos for a user, shows them as cards, and reports what was seen and clicked.
import { Client, Sender } from "./client/index.js";

const SCENE = "home";
const SHOWN = 12;
// The scene of behaviours in the sample's log: the tab of the app.
const TAB = 1;

const $ = (id) => document.getElementById(id);
// Written by tools/demo.py: the service's address, users, candidates, and what the cards show.
const { service, users, candidates, items } = await (await fetch("demo.json")).json();
const client = new Client(service, { timeoutMs: 2000 });
const views = new Sender((batch) => client.sendImpressions(batch), { everyMs: 500 });
const clicks = new Sender((batch) => client.sendEvents(batch), { everyMs: 500 });
let ranking = null;

// An impression is a card of which half was in view.
const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      const seen = { item_id: target.dataset.item, position: Number(target.dataset.position) };
      views.add({
        request_id: ranking.request_id,
        items: [seen],
        user_id: $("user").value,
        scene: SCENE,
        impression_id: crypto.randomUUID(),
        timestamp: Date.now(),
      });
    }
  },
  { threshold: 0.5 },
);

function element(tag, text = "") {
  const created = document.createElement(tag);
  created.textContent = text;
  return created;
}

function card({ item_id, rank, predictions }) {
  const item = items[item_id];
  const facts = { author: item.author, tag: item.tags.join(", ") || "none", duration: item.duration, music: item.music };
  if (predictions.pctr !== undefined) facts["click"] = `${(100 * predictions.pctr).toFixed(1)} %`;

  const list = element("dl");
  for (const [name, value] of Object.entries(facts)) list.append(element("dt", name), element("dd", value));
  const watch = element("button", "Watch");
  watch.type = "button";
  watch.addEventListener("click", () => click(item_id, rank, watch));

  const made = element("li");
  made.dataset.item = item_id;
  made.dataset.position = rank;
  made.append(element("h2", `${rank}. Video ${item_id}`), list, watch);
  return made;
}

function click(item_id, position, button) {
  const request_id = ranking.request_id;
  const event = { user_id: $("user").value, item_id, action: "click", scene: TAB, request_id, position };
  clicks.add({ ...event, event_id: crypto.randomUUID(), timestamp: Date.now() });
  button.textContent = "Watched";
  button.disabled = true;
}

async function show() {
  observer.disconnect();
  const context = { tab: TAB, hour: new Date().getHours() };
  // Without a ranking in time the cards have the order of `candidates`: a front end shows something in any case.
  ranking = await client.rankOr(candidates, $("user").value, candidates, { scene: SCENE, context, top_k: SHOWN });
  $("cards").replaceChildren(...ranking.ranking.slice(0, SHOWN).map(card));
  for (const shown of $("cards").children) observer.observe(shown);
  const model = ranking.model ? `${ranking.model.name} ${ranking.model.version}` : "no ranking in time: the usual order";
  $("model").textContent = [model, ...ranking.degraded].join(", ");
}

for (const user of users) $("user").append(new Option(user));
$("user").addEventListener("change", show);
$("again").addEventListener("click", show);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) void Promise.all([views.flush(), clicks.flush()]);
});
setInterval(() => {
  $("reported").textContent = `Reported: ${views.sent} impressions, ${clicks.sent} clicks`;
}, 250);
await show();
