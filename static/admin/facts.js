// A list of names and values, filled again and again.

import { h, setText } from "./dom.js";

export class Facts {
  element = h("dl", { class: "facts" });
  #values = new Map();

  /** `facts` are [name, text, "code" for ids]; those without a text are left out. */
  show(facts) {
    const shown = facts.filter(([, text]) => text != null && text !== "");
    const names = shown.map(([name]) => name);
    if (names.join("\n") !== [...this.#values.keys()].join("\n")) this.#make(shown);
    for (const [name, text] of shown) setText(this.#values.get(name), String(text));
  }

  #make(facts) {
    this.#values = new Map(facts.map(([name, , tag]) => [name, h(tag ?? "span")]));
    this.element.replaceChildren(...facts.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}, this.#values.get(name)))));
  }
}
