// What waits in outboxes, and where durable readers are.

import { h, setText } from "../dom.js";
import { badge, code, link, text } from "../fill.js";
import { address } from "../route.js";
import { sentence } from "../session.js";
import { Table } from "../table.js";
import { ago, milliseconds, number, position, span } from "../units.js";
import { Notice, View } from "../view.js";

const EVERY_MS = 3000;
const OLD_SECONDS = 60; // as the alert GatewayWorkStuck

export class Outbox extends View {
  #outbox = this.poll((signal) => this.#askOutbox(signal), EVERY_MS);
  #readers = this.poll((signal) => this.#askReaders(signal), EVERY_MS);
  #databases = new Table({
    caption: "Outboxes",
    key: ({ name }) => name,
    empty: "No relay has reported an outbox within the last seconds.",
    columns: [
      { title: "Database", fill: text(({ name }) => name) },
      { title: "Rows that wait", kind: "number", fill: text(({ rows }) => number(rows)) },
      { title: "Oldest waits", kind: "number", fill: badge(ageOf) },
      { title: "Reported", kind: "number", fill: text(({ at }) => ago(at && at * 1000)) },
    ],
  });
  #groups = new Table({
    caption: "Durable readers",
    key: ({ channel, group }) => `${channel} ${group}`,
    empty: "There is no durable reader.",
    columns: [
      { title: "Reader", fill: text(({ group }) => group) },
      {
        title: "Channel",
        fill: link(
          ({ channel }) => address("channels", [channel]),
          ({ channel }) => channel,
        ),
      },
      { title: "Position", fill: code(position) },
      { title: "Pending", kind: "number", fill: text(({ pending = 0 }) => number(pending)) },
      { title: "Lag", kind: "number", fill: badge(({ lag = 0 }) => (lag ? ["warn", number(lag)] : ["plain", number(lag)])) },
      { title: "Dead letters", kind: "number", fill: badge(({ dead = 0 }) => (dead ? ["bad", number(dead)] : ["plain", "0"])) },
      { title: "Run by", fill: badge(({ owner = "", lag = 0 }) => (owner || !lag ? ["plain", owner || "none"] : ["warn", "none"])) },
    ],
  });

  #faults = new Notice();
  #more = h("p", { class: "soft" });

  constructor(console) {
    super(console, "Outbox and readers");
    const databases = h("section", { "aria-labelledby": "outboxes" }, h("h2", { id: "outboxes" }, "Outboxes"), this.#databases.element);
    const readers = h(
      "section",
      { "aria-labelledby": "readers" },
      h("h2", { id: "readers" }, "Durable readers"),
      this.#faults.element,
      this.#groups.element,
      this.#more,
    );
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
    const { readers, more } = await this.call("readers", {}, signal);
    this.#groups.show(readers.filter(({ error }) => !error));
    this.#faults.show(readers.filter(({ error }) => error).map(faultOf).join(" "));
    setText(this.#more, more ? "There are more; these are the first." : "");
  }
}

function ageOf({ rows, oldest_seconds: seconds }) {
  if (!rows) return ["plain", "–"];
  return [seconds >= OLD_SECONDS ? "bad" : "plain", seconds < 10 ? milliseconds(seconds * 1000) : span(seconds)];
}

function faultOf({ group, channel, error }) {
  return sentence(`group ${group}${channel && ` in ${channel}`}: ${error}`);
}
