// The work queues, and how much waits in each.

import { badge, link, text } from "../fill.js";
import { address } from "../route.js";
import { sentence } from "../session.js";
import { Table } from "../table.js";
import { milliseconds, number } from "../units.js";
import { Notice, View } from "../view.js";

const EVERY_MS = 2000;
const numbered = (title, name) => ({ title, kind: "number", fill: text((row) => number(row[name] ?? 0)) });

export class Queues extends View {
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #faults = new Notice();
  #table = new Table({
    caption: "Queues",
    key: ({ name }) => name,
    empty: "There is no queue: nothing has been enqueued yet.",
    columns: [
      {
        title: "Queue",
        fill: link(
          ({ name }) => address("queues", [name]),
          ({ name }) => name,
        ),
      },
      numbered("Ready", "ready"),
      numbered("Running", "running"),
      numbered("Delayed", "delayed"),
      numbered("Parked", "parked"),
      { title: "Dead letters", kind: "number", fill: badge(({ dead }) => (dead ? ["bad", number(dead)] : ["plain", "0"])) },
      {
        title: "Workers",
        kind: "number",
        fill: badge((row) => (row.workers || !row.ready ? ["plain", number(row.workers)] : ["warn", "none"])),
      },
      { title: "Oldest waits", kind: "number", fill: text(({ ready, oldest_ms: age }) => (ready || age ? milliseconds(age) : "–")) },
      numbered("Finished", "finished"),
    ],
  });

  constructor(console) {
    super(console, "Queues", { intro: "Work that goes on while nobody is connected." });
    this.add(this.#faults.element, this.#table.element);
  }

  show() {
    this.#poll.now();
  }

  async #ask(signal) {
    const { queues, total = queues.length } = await this.call("queues", {}, signal);
    this.#table.show(queues.filter(({ error }) => !error).sort((one, other) => (one.name < other.name ? -1 : 1)));
    const faults = queues.filter(({ error }) => error).map(({ name, error }) => sentence(`queue ${name}: ${error}`));
    if (total > queues.length) faults.push(`There are ${number(total)} queues; these are the first.`);
    this.#faults.show(faults.join(" "));
  }
}
