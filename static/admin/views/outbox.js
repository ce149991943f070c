// What waits in outboxes, and where durable readers are.

import { h } from "../dom.js";
import { badge, code, link, text } from "../fill.js";
import { address } from "../route.js";
import { Table } from "../table.js";
import { milliseconds, number, position, span } from "../units.js";
import { View } from "../view.js";

const EVERY_MS = 3000;
const OLD_SECONDS = 60; // as the alert GatewayWorkStuck

export class Outbox extends View {
  #outbox = this.poll((signal) => this.#askOutbox(signal), EVERY_MS);
  #readers = this.poll((signal) => this.#askReaders(signal), EVERY_MS);
  #databases = new Table({
    caption: "Outboxes",
    key: ({ name }) => name,
    empty: "No relay has reported an outbox.",
    columns: [
      { title: "Database", fill: text(({ name }) => name) },
      { title: "Rows that wait", kind: "number", fill: text(({ rows }) => number(rows)) },
      { title: "Oldest waits", kind: "number", fill: badge(ageOf) },
      { title: "Relay", fill: badge(relayOf) },
    ],
  });
  #groups = new Table({
    caption: "Durable readers",
    key: ({ channel, stream, group }) => `${channel ?? stream} ${group}`,
    empty: "There is no durable reader.",
    columns: [
      { title: "Reader", fill: text(({ group }) => group) },
      { title: "Channel", fill: link(({ channel, stream }) => address("channels", [channel ?? stream]), ({ channel, stream }) => channel ?? stream) },
      { title: "Position", fill: code(({ position: at }) => (typeof at === "object" ? position(at) : String(at ?? ""))) },
      { title: "Pending", kind: "number", fill: text(({ pending }) => number(pending)) },
      { title: "Lag", kind: "number", fill: badge(({ lag }) => (lag ? ["warn", number(lag)] : ["plain", number(lag)])) },
    ],
  });

  constructor(console) {
    super(console, "Outbox and readers");
    const databases = h("section", { "aria-labelledby": "outboxes" }, h("h2", { id: "outboxes" }, "Outboxes"), this.#databases.element);
    const readers = h("section", { "aria-labelledby": "readers" }, h("h2", { id: "readers" }, "Durable readers"), this.#groups.element);
    this.add(databases, readers);
  }

  show() {
    this.#outbox.now();
    this.#readers.now();
  }

  async #askOutbox(signal) {
    this.#databases.show((await this.call("outbox", {}, signal)).databases);
  }

  async #askReaders(signal) {
    this.#groups.show((await this.call("readers", {}, signal)).readers);
  }
}

function ageOf({ rows, oldest_seconds: seconds }) {
  if (!rows) return ["plain", "–"];
  return [seconds >= OLD_SECONDS ? "bad" : "plain", seconds < 10 ? milliseconds(seconds * 1000) : span(seconds)];
}

function relayOf({ relay, rows }) {
  if (relay) return ["good", typeof relay === "string" ? relay : "runs"];
  return rows ? ["bad", "none runs"] : ["plain", "none runs"];
}
