// The work queues, and how much waits in each.

import { badge, link, text } from "../fill.js";
import { address } from "../route.js";
import { Table } from "../table.js";
import { milliseconds, number } from "../units.js";
import { View } from "../view.js";

const EVERY_MS = 2000;
const numbered = (title, name) => ({ title, kind: "number", fill: text((row) => number(row[name] ?? 0)) });

export class Queues extends View {
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #table = new Table({
    caption: "Queues",
    key: ({ name }) => name,
    empty: "There is no queue: nothing has been enqueued yet.",
    columns: [
      { title: "Queue", fill: link(({ name }) => address("queues", [name]), ({ name }) => name) },
      numbered("Ready", "ready"),
      numbered("Running", "running"),
      numbered("Delayed", "delayed"),
      numbered("Parked", "parked"),
      { title: "Dead letters", kind: "number", fill: badge(({ dead }) => (dead ? ["bad", number(dead)] : ["plain", "0"])) },
      { title: "Workers", kind: "number", fill: badge((row) => (row.workers || !row.ready ? ["plain", number(row.workers)] : ["warn", "none"])) },
      { title: "Oldest waits", kind: "number", fill: text(({ ready, oldest_ms: age }) => (ready ? milliseconds(age) : "–")) },
      numbered("Finished", "finished"),
    ],
  });

  constructor(console) {
    super(console, "Queues", { intro: "Work that goes on while nobody is connected." });
    this.add(this.#table.element);
  }

  show() {
    this.#poll.now();
  }

  async #ask(signal) {
    const { queues } = await this.call("queues", {}, signal);
    this.#table.show(queues.sort((one, other) => (one.name < other.name ? -1 : 1)));
  }
}
