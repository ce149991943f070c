// The processes, and sending the clients of one elsewhere.

import { ask } from "../dialog.js";
import { badge, buttons, text } from "../fill.js";
import { sentence } from "../session.js";
import { Table } from "../table.js";
import { bytes, count, number, percent, shortSpan } from "../units.js";
import { Notice, View } from "../view.js";

const EVERY_MS = 3000;

export class Nodes extends View {
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #warning = new Notice();
  #table;

  constructor(console) {
    super(console, "Nodes", { intro: "Every process of every gateway that shares this Valkey." });
    this.#table = new Table({ caption: "Nodes", key: ({ uid }) => uid, empty: "No process answered.", columns: this.#columns() });
    this.add(this.#warning.element, this.#table.element);
  }

  show() {
    this.#poll.now();
  }

  #columns() {
    const columns = [
      { title: "Process", fill: text(({ name, uid }) => name || uid) },
      { title: "State", kind: "wide", fill: badge(stateOf) },
      { title: "Connections", kind: "number", fill: text(({ clients }) => number(clients)) },
      { title: "Channels", kind: "number", fill: text(({ channels }) => number(channels)) },
      { title: "Subscriptions", kind: "number", fill: text(({ subs }) => number(subs)) },
      { title: "Processor", kind: "number", fill: text(({ uid }) => percent(this.live.figures.nodes.get(uid)?.cpu)) },
      { title: "Memory", kind: "number", fill: text(({ rss }) => bytes(rss)) },
      { title: "Up for", kind: "number", fill: text(({ uptime }) => shortSpan(uptime)) },
      { title: "Version", fill: text(({ version }) => version) },
    ];
    const drain = { label: "Drain", when: ({ draining }) => !draining, run: (node) => this.#drain(node) };
    const admit = { label: "Admit again", when: ({ draining }) => draining, run: (node) => this.#undrain(node) };
    const tools = { title: "Actions", kind: "acts", fill: buttons([drain, admit], ({ name }) => name) };
    return this.session.mayWrite ? [...columns, tools] : columns;
  }

  async #ask(signal) {
    const { nodes, warning = "" } = await this.call("nodes", {}, signal);
    this.#warning.show(warning && sentence(warning), true);
    this.#table.show(nodes.sort((one, other) => (one.name + one.uid < other.name + other.uid ? -1 : 1)));
  }

  #drain({ uid, name, clients }) {
    ask({
      title: `Drain ${name}?`,
      text: `It sends its ${count(clients, "client")} elsewhere, admits none, and is not ready. It goes on running, and can admit clients again.`,
      button: "Drain",
      done: `${name} drains.`,
      run: () => this.#order("drain", uid),
    });
  }

  #undrain({ uid, name }) {
    ask({
      title: `Let ${name} admit clients again?`,
      text: "It answers that it is ready, and takes clients as before.",
      button: "Admit again",
      danger: false,
      done: `${name} admits clients again.`,
      run: () => this.#order("undrain", uid),
    });
  }

  async #order(method, node) {
    await this.call(method, { node });
    this.#poll.now();
  }
}

function stateOf({ link, ready, draining }) {
  if (draining) return ["warn", "draining"];
  if (link !== "up") return ["bad", link];
  return ready ? ["bad", ready] : ["good", "ready"];
}
