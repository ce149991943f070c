// What one user may do in one channel, and by which setting.

import { h, icon, unseen } from "../dom.js";
import { address } from "../route.js";
import { Fields, View } from "../view.js";

const RIGHTS = [
  ["subscribe", "Subscribe"],
  ["publish", "Publish"],
  ["history", "Read history"],
  ["presence", "See who is present"],
];
const FIELDS = [
  ["user", "User", "empty: anonymous"],
  ["channel", "Channel", "posts:tech"],
];

export class Permissions extends View {
  #poll = this.poll((signal) => this.#ask(signal));
  #fields = new Fields(this, "permissions", FIELDS, () => this.#poll.now());
  #rights = h("ul", { class: "findings", "aria-label": "Rights", "aria-live": "polite" });
  #note = h("p", { class: "soft" });
  #links = h("p", { class: "links" });

  constructor(console) {
    super(console, "Permissions", {
      intro: "The rules as they apply to one user in one channel, for a connection token without rights of its own.",
    });
    this.add(this.#fields.element, this.#rights, this.#note, this.#links);
  }

  show({ query }) {
    this.#fields.fill(query);
    this.#poll.now();
  }

  async #ask(signal) {
    const { user, channel } = this.#fields.values;
    if (!channel) return this.#show(null, "Enter a channel to see what its rules allow.");
    const found = await this.call("permissions", { user, channel }, signal);
    const connects = found.subscribes_on_connect;
    this.#show(found, connects ? "Every client of this user is subscribed to it when it connects." : "");
    this.#links.replaceChildren(h("a", { href: address("channels", [channel]) }, `The channel ${channel}`));
  }

  #show(found, note) {
    const rights = found ? RIGHTS.filter(([name]) => found[name]) : [];
    this.#rights.replaceChildren(...rights.map(([name, label]) => rightOf(label, found[name])));
    this.#note.textContent = note;
    if (!found) this.#links.replaceChildren();
  }
}

function rightOf(label, { allowed, by }) {
  const mark = h("span", { class: `mark ${allowed ? "good" : "bad"}` }, icon(allowed ? "yes" : "no"));
  const words = h("div", {}, h("h2", {}, label, unseen(allowed ? ": allowed" : ": refused")), h("p", { class: "soft" }, by));
  return h("li", {}, mark, words);
}
