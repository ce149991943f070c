// A channel's history, newest first, page by page.

import { h } from "../dom.js";
import { Notice } from "../view.js";
import { publicationOf } from "./publication.js";

const LIMIT = 20;

export class History {
  #view;
  #channel;
  #since = null; // the position before which the next page ends
  #notice = new Notice();
  #list = h("ol", { class: "publications" });
  #empty = h("p", { class: "empty", hidden: true }, "The history holds nothing.");
  #older = h("button", { type: "button", hidden: true, on: { click: () => this.#more() } }, "Older");

  constructor(view, channel) {
    this.#view = view;
    this.#channel = channel;
    const again = h("button", { type: "button", class: "small", on: { click: () => this.read() } }, "Read again");
    const head = h("div", { class: "section-head" }, h("h2", { id: "history" }, "History"), again);
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "history" },
      head,
      this.#notice.element,
      this.#list,
      this.#empty,
      this.#older,
    );
  }

  /** Reads the newest page anew. */
  async read() {
    const page = await this.#page(null);
    if (!page) return;
    this.#list.replaceChildren();
    this.#append(page);
    this.#empty.hidden = page.publications.length > 0;
  }

  /** The answer to a second click would be shown twice, and one from before the list was read anew does not continue it. */
  async #more() {
    const since = this.#since;
    const page = await this.#page(since);
    if (page && since === this.#since) this.#append(page);
  }

  async #page(since) {
    try {
      const page = await this.#view.call("history", { channel: this.#channel, limit: LIMIT, reverse: true, ...(since && { since }) });
      this.#notice.show("");
      return page;
    } catch (error) {
      this.#notice.show(error.message);
      return null;
    }
  }

  #append({ publications, epoch }) {
    this.#list.append(...publications.map((publication) => publicationOf(this.#channel, publication)));
    this.#older.hidden = publications.length < LIMIT;
    if (publications.length) this.#since = { epoch, offset: publications.at(-1).offset };
  }
}
