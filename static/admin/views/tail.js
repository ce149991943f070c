// A channel's publications as they arrive.

import { h, onceAFrame, setAttribute, setText } from "../dom.js";
import { count } from "../units.js";
import { publicationOf } from "./publication.js";

const SHOWN_MOST = 50;
const STATES = { waiting: "The connection is lost. The tail goes on when it is back.", live: "" };

export class Tail {
  #view;
  #channel;
  #stop = null;
  #received = 0;
  #waiting = []; // for the next frame
  #draw = onceAFrame(() => this.#show());
  #button = h("button", { type: "button", class: "small", "aria-pressed": "false", on: { click: () => this.#toggle() } }, "Tail live");
  #state = h("p", { class: "soft", role: "status" });
  #list = h("ol", { class: "publications" });

  constructor(view, channel) {
    this.#view = view;
    this.#channel = channel;
    const head = h("div", { class: "section-head" }, h("h2", { id: "tail" }, "Live"), this.#button);
    this.element = h("section", { class: "card", "aria-labelledby": "tail" }, head, this.#state, this.#list);
    this.#note("Shows publications as they arrive, without being seen in the channel.");
    view.atEnd(() => this.#stop?.());
  }

  #toggle() {
    if (this.#stop) this.#end();
    else this.#begin();
    this.#button.setAttribute("aria-pressed", String(Boolean(this.#stop)));
    setText(this.#button, this.#stop ? "Stop" : "Tail live");
  }

  #begin() {
    this.#received = 0;
    this.#list.replaceChildren();
    this.#note("Beginning …");
    this.#stop = this.#view.live.tail(this.#channel, {
      publication: (publication) => this.#take(publication),
      state: (state, reason) => this.#note(reason ?? STATES[state] ?? "", state === "live"),
    });
  }

  #end() {
    this.#stop();
    this.#stop = null;
    this.#note(`Stopped after ${count(this.#received, "publication")}.`);
  }

  #take(publication) {
    this.#received += 1;
    this.#waiting.push({ publication, ms: Date.now() });
    if (this.#waiting.length > SHOWN_MOST) this.#waiting.shift();
    this.#draw();
  }

  /** What arrived within a frame is shown at once, newest first; more than SHOWN_MOST are only counted. */
  #show() {
    const fresh = this.#waiting.splice(0).map(({ publication, ms }) => publicationOf(this.#channel, publication, ms));
    this.#list.prepend(...fresh.reverse());
    while (this.#list.children.length > SHOWN_MOST) this.#list.lastChild.remove();
    if (this.#stop) this.#count();
  }

  /** A number that changes with each frame is not read out. */
  #count() {
    setAttribute(this.#state, "aria-live", "off");
    setText(this.#state, `${count(this.#received, "publication")} since the tail began.`);
  }

  #note(text, live = false) {
    if (live) return this.#count();
    setAttribute(this.#state, "aria-live", null);
    setText(this.#state, text);
  }
}
