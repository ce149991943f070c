// The line of this tab, as the page calls its connection: what it follows, its state, and what was missed and recovered.
//
// Each followed channel starts after the position that the API read before it read its database. So the newest changes arrive a
// second time, marked `recovered`. Only what a channel missed after it had been live is new to the reader: that alone is passed
// on as recovered, and counted.

import { Gateway } from "../static/gateway.js";
import { $, count } from "./dom.js";

const TOLD_MS = 30_000; // the summary of a return stands out for as long as the badges are shown
const SETTLE_MS = 250; // after the last channel became live, for the rest of the frame with which it did
const NOUNS = {
  "post.created": ["post"],
  "post.edited": ["edit"],
  "post.deleted": ["deletion"],
  "review.created": ["review"],
  "response.created": ["response"],
  reaction: ["reaction"],
  notification: ["notification"],
  progress: ["step of a report", "steps of reports"],
  "report.ready": ["finished report"],
  "report.cancelled": ["cancelled report"],
  order: ["state of an order", "states of orders"],
  queue: ["change of the queue", "changes of the queue"],
};
const HINT = "Cut this tab’s line, wait a little, restore it: see what it catches up on.";

export class Line {
  #followed = new Map(); // channel → { subscription, wasLive }
  #outage = null; // from the loss of the line until every channel is live again: { kinds, reloaded }
  #up = false; // it was connected before, so that the next connection is a return
  #settling;
  #quieting;

  constructor(user, token) {
    this.user = user;
    this.gateway = new Gateway({ token });
    this.gateway.on("state", (event) => this.#changed(event));
    this.#countInbox(`notifications:${user}`);
    $("line").addEventListener("click", () => this.#toggle());
    this.#tell("hint", HINT);
  }

  get live() {
    return this.gateway.state === "connected";
  }

  /** Calls `publication` and `gap` for the channel's events until it is followed anew or unfollowed. */
  follow(channel, { since, publication, gap }) {
    this.unfollow(channel);
    const subscription = this.gateway.subscribe(channel, { since });
    const followed = { subscription, wasLive: false };
    this.#followed.set(channel, followed);
    subscription.on("state", ({ state }) => {
      followed.wasLive ||= state === "live";
      this.#settle();
    });
    subscription.on("publication", (event) => {
      const recovered = event.recovered && followed.wasLive;
      if (recovered) this.#missed(kindOf(event.data));
      publication({ ...event, recovered });
    });
    subscription.on("gap", () => this.#gap(gap));
  }

  unfollow(channel) {
    if (this.#followed.delete(channel)) this.gateway.unsubscribe(channel);
  }

  /** What the bell shows of an outage is summed up here too. Only notifications have an id; the bell handles the announcements. */
  #countInbox(inbox) {
    this.gateway.on("publication", ({ channel, data, recovered }) => {
      if (channel === inbox && data.id !== undefined && recovered) this.#missed("notification");
    });
    this.gateway.on("gap", ({ channel }) => channel === inbox && this.#gap(() => {}));
  }

  #gap(reload) {
    if (this.#outage) this.#outage.reloaded = true;
    else this.#tell("gap", "history no longer held what came next, so it was loaded anew");
    reload();
  }

  #missed(kind) {
    const { kinds } = (this.#outage ??= { kinds: {} }); // also without an outage: one slow channel can miss publications alone
    kinds[kind] = (kinds[kind] ?? 0) + 1;
    this.#settle();
  }

  #toggle() {
    if (this.gateway.state === "closed" || this.gateway.state === "refused") this.gateway.connect();
    else this.gateway.disconnect();
  }

  // What is shown.

  #changed({ state, reason }) {
    if (this.#up && (state === "waiting" || state === "closed")) this.#outage ??= { kinds: {} };
    this.#up ||= state === "connected";
    $("line").setAttribute("aria-checked", String(state !== "closed" && state !== "refused"));
    if (state === "connecting") this.#show("connecting", this.#up ? "reconnecting" : "connecting");
    else if (state === "waiting") this.#lost();
    else if (state === "closed") this.#cut();
    else if (state === "refused") this.#refused(reason);
    else if (this.#outage) this.#show("catching-up", "catching up");
    else this.#showLive();
    this.#settle();
  }

  #lost() {
    this.#show("waiting", "reconnecting");
    if (this.#up) this.#tell("cut", "The line is lost. It comes back by itself, and brings what was missed.");
  }

  #cut() {
    this.#show("cut", "cut");
    this.#tell("cut", "This tab’s line is cut, and the town goes on. Restore it to see what you missed.");
  }

  #refused(reason) {
    this.#show("refused", "refused");
    this.#tell("cut", `The gateway refused this tab: ${reason}. Loading the page anew may help.`);
  }

  #showLive() {
    this.#show("live", this.gateway.transport === "sse" ? "live · sse" : "live");
  }

  /** The outage is over once all channels have caught up, and remained so for a moment. */
  #settle() {
    clearTimeout(this.#settling);
    const behind = ({ subscription }) => !["live", "refused"].includes(subscription.state);
    if (!this.#outage || !this.live || [...this.#followed.values()].some(behind)) return;
    this.#settling = setTimeout(() => {
      this.#tell("back", ...summary(this.#outage));
      this.#outage = null;
      this.#showLive();
    }, SETTLE_MS);
  }

  #show(state, text) {
    $("state").dataset.state = state;
    $("state-text").textContent = text;
  }

  #tell(kind, text, detail = "") {
    const news = $("news");
    clearTimeout(this.#quieting);
    if (kind === "back" || kind === "gap") this.#quieting = setTimeout(() => (news.dataset.kind = "told"), TOLD_MS);
    news.dataset.kind = kind;
    news.replaceChildren(text);
    if (detail) news.append(Object.assign(document.createElement("span"), { className: "detail", textContent: ` ${detail}` }));
  }
}

/** A step of a job has no type, and all states of an order are one kind. */
const kindOf = ({ type = "progress" }) => (type.startsWith("order.") ? "order" : type);

function summary({ kinds, reloaded }) {
  const total = Object.values(kinds).reduce((sum, number) => sum + number, 0);
  if (!total && reloaded) return ["history no longer held what was missed, so it was loaded anew"];
  const ending = reloaded ? "history no longer held the rest, so it was loaded anew" : "nothing lost";
  const detail = Object.entries(kinds).map(([kind, number]) => count(number, ...(NOUNS[kind] ?? [kind])));
  if (!total) return ["back again, and nothing was missed"];
  return [`caught up on ${count(total, "publication")}, ${ending}`, detail.length ? `(${detail.join(", ")})` : ""];
}
