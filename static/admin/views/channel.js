// One channel: what it holds, its rules, its publications as they arrive, and its history page by page.

import { ask } from "../dialog.js";
import { h, setText } from "../dom.js";
import { Facts } from "../facts.js";
import { address } from "../route.js";
import { ago, bytes, count, number, position } from "../units.js";
import { View } from "../view.js";
import { History } from "./history.js";
import { Tail } from "./tail.js";

const EVERY_MS = 3000;

export class Channel extends View {
  #channel;
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #facts = new Facts();
  #rules = new Facts();
  #namespace = h("p", { class: "soft" });
  #history;

  constructor(console, { parts: [channel] }) {
    super(console, channel, { back: [address("channels"), "Channels"] });
    this.#channel = channel;
    this.#history = new History(this, channel);
    const links = [
      [address("connections", [], { channel }), "Connections that follow it"],
      [address("permissions", [], { channel }), "Permissions"],
      [address("why", [], { channel }), "Why?"],
    ];
    const rules = h("details", { class: "card" }, h("summary", {}, h("h2", {}, "Rules")), this.#namespace, this.#rules.element);
    this.add(
      this.#facts.element,
      h("p", { class: "links" }, ...links.map(([href, label]) => h("a", { href }, label))),
      rules,
      new Tail(this, channel).element,
      this.#history.element,
    );
    if (this.session.mayWrite) this.tools.append(...this.#buttons());
    this.#history.read();
  }

  show() {
    this.#poll.now();
  }

  async #ask(signal) {
    const found = await this.call("channel", { channel: this.#channel }, signal);
    this.#facts.show(factsOf(found));
    setText(this.#namespace, found.namespace ? `Of the namespace ${found.namespace}.` : "Of no namespace: those of all other channels.");
    this.#rules.show(Object.entries(found.rules).map(([name, value]) => [name, JSON.stringify(value), "code"]));
  }

  #buttons() {
    const publish = h("button", { type: "button", on: { click: () => this.#publish() } }, "Publish");
    const remove = h("button", { type: "button", class: "danger", on: { click: () => this.#remove() } }, "Remove history");
    return [publish, remove];
  }

  #publish() {
    ask({
      title: `Publish to ${this.#channel}`,
      text: "All who follow the channel receive it at once.",
      button: "Publish",
      danger: false,
      fields: [
        { name: "data", kind: "area", label: "Data, as JSON", value: '{"text": "hello"}' },
        { name: "live", kind: "check", label: "Live only: it is not stored in history" },
      ],
      run: async ({ data, live }) => {
        const result = await this.call("publish", { channel: this.#channel, data: parsed(data), ...(live && { skip_history: true }) });
        this.#poll.now();
        this.#history.read();
        return result.offset ? `Published at offset ${number(result.offset)}.` : "Published.";
      },
    });
  }

  #remove() {
    ask({
      title: `Remove the history of ${this.#channel}?`,
      text: "All its publications are removed for good. Clients that come back from before are notified of a gap. Offsets go on.",
      button: "Remove history",
      done: "The history is removed.",
      run: async () => {
        await this.call("history_remove", { channel: this.#channel });
        this.#poll.now();
        this.#history.read();
      },
    });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
}

function factsOf({ clients, position: at, history, presence }) {
  return [
    ["Followers", number(clients)],
    ["Present", presence && `${count(presence.clients, "client")} of ${count(presence.users, "user")}`],
    ["Position", at && position(at), "code"],
    [
      "History",
      history &&
        (history.bytes == null ? count(history.size, "publication") : `${count(history.size, "publication")}, ${bytes(history.bytes)}`),
    ],
    ["Oldest", history?.oldest_ms && ago(history.oldest_ms)],
    ["Newest", history?.newest_ms && ago(history.newest_ms)],
  ];
}
