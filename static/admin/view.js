// What every view is made of: a head, a notice for faults, and polls that end with it.

import { afterTyping, h, setText } from "./dom.js";
import { Poll } from "./poll.js";
import { address, replaceAddress } from "./route.js";

/** A sentence at the head of a view; empty and hidden while all is well. */
export class Notice {
  element = h("p", { class: "notice", role: "alert", hidden: true });

  /** `waits`: it is tried again by itself, so it is no refusal. */
  show(text, waits = false) {
    setText(this.element, text);
    this.element.hidden = !text;
    this.element.classList.toggle("refusal", !waits);
  }
}

export class View {
  #polls = [];
  #ends = [];

  /** `console` is { session, live }; `title` is a text or the elements of a heading. */
  constructor(console, title, { back, tools = [], intro } = {}) {
    this.session = console.session;
    this.live = console.live;
    this.heading = h("h1", { tabindex: "-1" }, title);
    this.notice = new Notice();
    this.tools = h("div", { class: "tools" }, ...tools);
    const up = back && h("p", { class: "up" }, h("a", { href: back[0] }, back[1]));
    this.head = h(
      "div",
      { class: "view-head" },
      h("div", { class: "titles" }, up, this.heading, intro && h("p", { class: "soft" }, intro)),
      this.tools,
    );
    this.element = h("div", { class: "view" }, this.head, this.notice.element);
  }

  /** The place within the view: called at first, and whenever the address changes without leaving it. */
  show() {}

  add(...parts) {
    this.element.append(...parts.filter(Boolean));
  }

  call(method, asked, signal) {
    return this.session.call(method, asked, signal);
  }

  /** Asks at once and then every `everyMs`, until the view is closed. */
  poll(ask, everyMs = 0) {
    const poll = new Poll(ask, { everyMs, notice: this.notice });
    this.#polls.push(poll);
    return poll;
  }

  atEnd(end) {
    this.#ends.push(end);
  }

  close() {
    for (const poll of this.#polls) poll.stop();
    for (const end of this.#ends) end();
  }
}

/** Fields whose texts are the address's query: each is [name, label, placeholder]. `changed()` is called when one was typed in. */
export class Fields {
  inputs = new Map();
  #later;

  constructor(view, name, fields, changed) {
    this.name = name;
    this.#later = afterTyping(() => {
      replaceAddress(address(name, [], this.values));
      changed();
    });
    view.atEnd(this.#later.stop);
    const on = { submit: (event) => this.#submitted(event), input: this.#later };
    this.element = h("form", { class: "fields", role: "search", on }, ...fields.map((field) => this.#field(...field)));
  }

  get values() {
    return Object.fromEntries([...this.inputs].map(([name, input]) => [name, input.value.trim()]));
  }

  /** Sets the values of the address; a field whose value is that already is left alone. */
  fill(query) {
    for (const [name, input] of this.inputs) {
      const value = query.get(name) ?? "";
      if (input.value.trim() !== value) input.value = value;
    }
  }

  #field(name, label, placeholder = "") {
    const first = this.inputs.size === 0;
    const input = h("input", {
      id: `field-${name}`,
      type: "search",
      placeholder,
      autocomplete: "off",
      autocapitalize: "none",
      spellcheck: "false",
      enterkeyhint: "search",
      "data-search": first,
      "aria-keyshortcuts": first ? "/" : null,
    });
    this.inputs.set(name, input);
    return h("div", { class: "field" }, h("label", { for: `field-${name}` }, label), input);
  }

  #submitted(event) {
    event.preventDefault();
    this.#later.now();
  }
}
