// Did this user get that publication, and if not, why? One sentence for each thing that is known.

import { h, icon, unseen } from "../dom.js";
import { address, replaceAddress } from "../route.js";
import { sentence } from "../session.js";
import { time } from "../units.js";
import { View } from "../view.js";

const FIELDS = [
  ["user", "User", "ann", true],
  ["channel", "Channel", "posts:tech", true],
  ["offset", "Offset of the publication", "1204", true],
  ["epoch", "Epoch", "of now", false],
];
const VERDICTS = { delivered: ["good", "Delivered"], "not delivered": ["bad", "Not delivered"], unknown: ["warn", "It is not known"] };
const MARKS = new Map([
  [true, ["good", "yes", ""]],
  [false, ["bad", "no", "Problem: "]],
  [null, ["plain", "unknown", "Not known: "]],
]);

export class Why extends View {
  #inputs = new Map();
  #poll = this.poll((signal) => this.#ask(signal));
  #answer = h("div", { class: "answer", role: "status" });

  constructor(console) {
    super(console, "Why?", { intro: "Did this user get that publication, and if not, why?" });
    const fields = FIELDS.map(([name, label, placeholder, required], place) => this.#field(name, label, placeholder, required, place));
    const on = { submit: (event) => this.#submitted(event) };
    this.add(
      h("form", { class: "fields", role: "search", on }, ...fields, h("button", { type: "submit", class: "primary" }, "Ask")),
      this.#answer,
    );
  }

  show({ query }) {
    for (const [name, input] of this.#inputs) input.value = query.get(name) ?? "";
    this.#answer.replaceChildren();
    if (this.#complete) this.#poll.now();
  }

  #field(name, label, placeholder, required, place) {
    const mode = name === "offset" ? { inputmode: "numeric", pattern: "[0-9]+" } : {};
    const search = { "data-search": place === 0, "aria-keyshortcuts": place === 0 ? "/" : null };
    const input = h("input", {
      id: `why-${name}`,
      placeholder,
      required,
      autocomplete: "off",
      autocapitalize: "none",
      spellcheck: "false",
      ...mode,
      ...search,
    });
    this.#inputs.set(name, input);
    return h("div", { class: "field" }, h("label", { for: input.id }, label), input);
  }

  get #values() {
    return Object.fromEntries([...this.#inputs].map(([name, input]) => [name, input.value.trim()]));
  }

  get #complete() {
    const { user, channel, offset } = this.#values;
    return Boolean(user && channel && /^\d+$/.test(offset));
  }

  #submitted(event) {
    event.preventDefault();
    replaceAddress(address("why", [], this.#values));
    this.#poll.now();
  }

  async #ask(signal) {
    const { user, channel, offset, epoch } = this.#values;
    const { verdict, findings } = await this.call("why", { user, channel, offset: Number(offset), ...(epoch && { epoch }) }, signal);
    const [tone, words] = VERDICTS[verdict] ?? ["warn", sentence(verdict)];
    const about = h("p", { class: "soft" }, `Publication ${offset} of ${channel}, for ${user}`);
    this.#answer.replaceChildren(
      h("div", { class: `verdict ${tone}` }, h("h2", {}, words), about),
      h("ul", { class: "findings" }, ...findings.map(findingOf)),
    );
  }
}

function findingOf({ ok, text, at_ms: at, setting }) {
  const [tone, symbol, prefix] = MARKS.get(ok ?? null);
  const more = [at && h("time", { class: "soft" }, time(at)), setting && h("code", {}, setting)];
  const words = h("div", {}, h("p", {}, prefix && unseen(prefix), text), at || setting ? h("p", { class: "more" }, ...more) : null);
  return h("li", {}, h("span", { class: `mark ${tone}` }, icon(symbol)), words);
}
