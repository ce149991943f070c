// Piazza, the demo of the gateway. Its modules:
//
//   member   who this tab is                        line       the connection to the gateway, outages, what was recovered
//   feed     posts of a channel: channels, post     places     restaurants and their reviews: review, story
//   bell     notifications, toast                   reactions  the buttons below posts and reviews
//   pace     the simulated members                  api, dom, time   used by all
//
// The workshop is a page of its own: work.js.
//
// main makes one of each and gives them the town, an object through which they reach each other.

import { Api } from "./api.js";
import { ring } from "./bell.js";
import { $ } from "./dom.js";
import { Feed } from "./feed.js";
import { Line } from "./line.js";
import { become, choose, remembered } from "./member.js";
import { pace } from "./pace.js";
import { Places } from "./places.js";
import { Story } from "./story.js";

async function enter(name) {
  const api = new Api(name);
  const me = await api.enter();
  const { channels, subjects, reactions, pace: perMinute } = await api.state();
  become(me);
  $("welcome").hidden = true;
  $("town").hidden = false;
  const town = { me, api, reactions, arrived };
  town.line = new Line(me, () => api.lineToken());
  town.story = new Story(town);
  town.feed = new Feed(town, channels);
  town.places = new Places(town, subjects);
  ring(town.line, (target) => go(town, target));
  pace(api, perMinute);
  await Promise.all([channels[0] && town.feed.open(channels[0].name), subjects[0] && town.places.open(subjects[0].id)]);
  const asked = location.hash.slice(1); // by the bell of the workshop
  if (/^(post|review):\d+$/.test(asked)) await go(town, asked).catch((error) => $("bell").show(error.message));
}

// On a phone one of the two panes is shown.

const tabs = $("tabs").querySelectorAll("[data-view]");

function view(name) {
  $("panes").dataset.view = name;
  for (const tab of tabs) {
    tab.toggleAttribute("aria-current", false);
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    if (tab.dataset.view === name) delete tab.dataset.news;
  }
}

/** Marks a pane's tab when something arrived in it, unless that pane is the one that is shown. */
function arrived(name) {
  if ($("panes").dataset.view !== name) $("tabs").querySelector(`[data-view="${name}"]`).dataset.news = "";
}

async function go(town, target) {
  const [kind, id] = target.split(":");
  if (kind !== "post" && kind !== "review") return location.assign(`work.html#${kind}-${id}`);
  const pane = kind === "post" ? "feed" : "places";
  view(pane);
  await town[pane].reveal(Number(id));
}

for (const tab of tabs) tab.addEventListener("click", () => view(tab.dataset.view));

const name = remembered();
if (name) enter(name).catch((error) => choose(enter).then(() => ($("enter-fault").textContent = error.message)));
else choose(enter);
