// The reaction buttons of one post or review: the total counts, and which one, if any, is the reader's own.

import { BADGE_MS, h, icon } from "./dom.js";

const BUMP_MS = 1000; // longer than the animation

export class Reactions {
  #town;
  #target;
  #fault;
  #buttons = new Map();
  #mine = null;
  #version = 0; // counts the publications, so that an answer which is older than the last of them can be ignored

  constructor(town, target, fault) {
    this.#town = town;
    this.#target = target;
    this.#fault = fault;
    for (const kind of town.reactions) this.#buttons.set(kind, this.#button(kind));
    this.element = h("div", { class: "reactions", role: "group", "aria-label": "Reactions" }, ...this.#buttons.values());
  }

  #button(kind) {
    const attributes = { type: "button", class: "reaction", title: kind, "data-testid": "reaction", "data-reaction": kind };
    const count = h("span", { class: "count", "data-testid": "count" });
    return h("button", { ...attributes, on: { click: () => this.#press(kind) } }, icon(kind), h("span", { class: "unseen" }, kind), count);
  }

  show(counts, mine = this.#mine) {
    this.#mine = mine;
    for (const [kind, button] of this.#buttons) {
      const number = counts[kind] ?? 0;
      button.lastChild.textContent = number || "";
      button.classList.toggle("any", number > 0);
    }
    this.#showPressed();
  }

  #showPressed() {
    for (const [kind, button] of this.#buttons) button.setAttribute("aria-pressed", String(kind === this.#mine));
  }

  /** Shows a publication, which may be about what this member pressed, here or in another tab. */
  take({ user, reaction, counts }, recovered) {
    this.#version += 1;
    this.show(counts, user === this.#town.me ? reaction : this.#mine);
    const button = this.#buttons.get(reaction);
    if (!button) return;
    button.classList.remove("bumped", "caught");
    void button.offsetWidth; // starts the animation anew
    button.classList.add(recovered ? "caught" : "bumped");
    setTimeout(() => button.classList.remove("bumped", "caught"), recovered ? BADGE_MS : BUMP_MS);
  }

  /** The button changes at once. The counts come with the publication, or with the answer if that is sooner or the line is cut. */
  async #press(kind) {
    const before = this.#mine;
    const version = this.#version;
    this.#mine = kind === before ? null : kind;
    this.#showPressed();
    this.#fault.textContent = "";
    try {
      const { counts } = await this.#town.api.react(this.#target, this.#mine);
      if (version === this.#version) this.show(counts);
    } catch (error) {
      this.#fault.textContent = error.message;
      this.#mine = before;
      this.#showPressed();
    }
  }
}
