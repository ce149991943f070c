// All connections, found by what they begin with, a hundred at most on a page.

import { h, setText } from "../dom.js";
import { badge, link, text } from "../fill.js";
import { address } from "../route.js";
import { Table } from "../table.js";
import { bytes, count, number, shortSince } from "../units.js";
import { Fields, View } from "../view.js";

const EVERY_MS = 5000;
const LIMIT = 50;
const FIELDS = [
  ["user", "User begins with"],
  ["address", "Address begins with"],
  ["channel", "Follows the channel"],
  ["client", "Client id begins with"],
];

export class Connections extends View {
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #fields;
  #table = new Table({
    caption: "Connections",
    key: ({ client }) => client,
    columns: this.#columns(),
    empty: "No connection is like that.",
  });
  #total = h("p", { class: "soft", role: "status" });
  #first = h("a", { class: "button" }, "First page");
  #next = h("a", { class: "button" }, "Next page");
  #cursor = "";

  constructor(console) {
    super(console, "Connections");
    this.#fields = new Fields(this, "connections", FIELDS, () => this.#search(""));
    const pages = h("nav", { class: "pages", "aria-label": "Pages" }, this.#first, this.#next);
    this.head.firstChild.append(this.#total);
    this.add(this.#fields.element, this.#table.element, pages);
  }

  show({ query }) {
    this.#fields.fill(query);
    this.#search(query.get("cursor") ?? "");
  }

  #search(cursor) {
    this.#cursor = cursor;
    this.#poll.now();
  }

  async #ask(signal) {
    const { values } = this.#fields;
    const asked = Object.fromEntries(Object.entries({ ...values, cursor: this.#cursor }).filter(([, value]) => value));
    const { connections, total, cursor } = await this.call("connections", { ...asked, limit: LIMIT }, signal);
    this.#table.show(connections);
    setText(this.#total, count(total, "connection"));
    this.#page(this.#first, this.#cursor, address("connections", [], values));
    this.#page(this.#next, cursor, address("connections", [], { ...values, cursor }));
  }

  #page(anchor, there, href) {
    anchor.hidden = !there;
    anchor.href = href;
  }

  #columns() {
    const to = ({ client }) => address("connections", [client]);
    const nameOf = ({ user, client, operator }) => {
      if (client === this.live.client) return "this page";
      return user || (operator ? "a page of the console" : "anonymous");
    };
    return [
      { title: "User", fill: link(to, nameOf) },
      { title: "Address", fill: text((row) => row.address) },
      { title: "Transport", fill: text(({ transport }) => transport) },
      { title: "Connected for", kind: "number", fill: text(({ since_ms: since }) => shortSince(since)) },
      { title: "Channels", kind: "number", fill: text(({ channels }) => number(channels)) },
      { title: "Waiting", kind: "number", fill: text(({ waiting_bytes: waiting }) => (waiting ? bytes(waiting) : "")) },
      { title: "State", fill: badge(({ paused }) => (paused ? ["warn", "slow"] : null)) },
      { title: "Client", kind: "rare", fill: link(to, ({ client }) => client.slice(0, 8), "code") },
    ];
  }
}
