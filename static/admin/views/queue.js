// The jobs of one queue in one state, and its dead letters sent again, cancelled or removed.

import { ask } from "../dialog.js";
import { h, setAttribute, setText } from "../dom.js";
import { buttons, code, link, text } from "../fill.js";
import { address } from "../route.js";
import { Table } from "../table.js";
import { ago, count, number, span } from "../units.js";
import { View } from "../view.js";

const EVERY_MS = 2000;
const LIMIT = 50;
const STATES = [
  ["ready", "Ready"],
  ["running", "Running"],
  ["delayed", "Delayed"],
  ["dead", "Dead letters"],
];

export class Queue extends View {
  #queue;
  #state = "ready";
  #first = 0;
  #number = 0;
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #tabs = h("nav", { class: "tabs", "aria-label": "States" });
  #table;
  #pages = h("nav", { class: "pages", "aria-label": "Pages" });
  #retry = h("button", { type: "button", hidden: true, on: { click: () => this.#retryAll() } }, "Send all again");
  #purge = h("button", { type: "button", class: "danger", hidden: true, on: { click: () => this.#askPurge() } }, "Remove all");

  constructor(console, { parts: [queue] }) {
    super(console, `Queue ${queue}`, { back: [address("queues"), "Queues"] });
    this.#queue = queue;
    this.#tabs.append(...STATES.map(([state, label]) => h("a", { "data-state": state }, `${label} `, h("span", { class: "soft" }))));
    this.#table = new Table({ caption: "Jobs", key: ({ id }) => id, columns: this.#columns() });
    this.add(this.#tabs, this.#table.element, this.#pages);
    if (this.session.mayWrite) this.tools.append(this.#retry, this.#purge);
  }

  show({ query }) {
    this.#state = STATES.some(([state]) => state === query.get("state")) ? query.get("state") : "ready";
    this.#first = Math.max(0, Number(query.get("first")) || 0);
    for (const tab of this.#tabs.children) {
      tab.href = this.#address(tab.dataset.state);
      setAttribute(tab, "aria-current", tab.dataset.state === this.#state ? "page" : null);
    }
    this.#table.setEmpty(`No job is ${this.#state === "dead" ? "a dead letter" : this.#state}.`);
    this.#poll.now();
  }

  #address(state, first = 0) {
    return address("queues", [this.#queue], { state, first: first || "" });
  }

  #columns() {
    const columns = [
      {
        title: "Job",
        fill: link(
          ({ id }) => address("queues", [this.#queue, id]),
          ({ name }) => name || "not a job",
        ),
      },
      { title: "Id", fill: code(({ id }) => id) },
      { title: "When", kind: "short", fill: text(({ ms, state }) => whenOf(ms, state ?? this.#state)) },
      { title: "Failures", kind: "number", fill: text(({ failed, failures = [] }) => number(failed ?? failures.length)) },
      { title: "Last error", kind: "wide", fill: text(errorOf) },
    ];
    const again = { label: "Send again", when: () => this.#state === "dead", run: ({ id }) => this.#retryOne(id) };
    const cancel = { label: "Cancel", when: () => this.#state !== "dead", run: ({ id, name }) => this.#cancel(id, name) };
    return this.session.mayWrite
      ? [...columns, { title: "Actions", kind: "acts", fill: buttons([again, cancel], ({ id }) => id) }]
      : columns;
  }

  async #ask(signal) {
    const asked = { queue: this.#queue, state: this.#state, first: this.#first, limit: LIMIT };
    const { jobs, numbers = {} } = await this.call("queue", asked, signal);
    for (const tab of this.#tabs.children) setText(tab.lastChild, number(numbers[tab.dataset.state] ?? 0));
    this.#number = numbers[this.#state] ?? jobs.length;
    this.#table.show(jobs);
    this.#retry.hidden = this.#purge.hidden = this.#state !== "dead" || !this.#number;
    this.#showPages(jobs.length);
  }

  #showPages(shown) {
    const pages = [
      this.#first && [this.#address(this.#state, Math.max(0, this.#first - LIMIT)), "Previous page"],
      this.#first + shown < this.#number && shown && [this.#address(this.#state, this.#first + shown), "Next page"],
    ].filter(Boolean);
    if (pages.map(String).join() === [...this.#pages.children].map((a) => `${a.getAttribute("href")},${a.textContent}`).join()) return;
    this.#pages.replaceChildren(...pages.map(([href, label]) => h("a", { class: "button", href }, label)));
  }

  #retryOne(id) {
    this.#order(`Send ${id} again?`, "It is ready at once, with all its attempts.", "Send again", false, [], () =>
      this.call("queue_retry", { queue: this.#queue, ids: [id] }),
    );
  }

  #retryAll() {
    const title = `Send ${count(this.#number, "dead letter")} of ${this.#queue} again?`;
    this.#order(title, "They are ready at once, with all their attempts.", "Send again", false, [], () =>
      this.#sendAll(this.#number),
    );
  }

  /**
   * One call sends a thousand at most, and fewer where they are large. Those whose key another job has stay, and are passed over; those that fail
   * again meanwhile come after the oldest `most`, and are not sent a second time.
   */
  async #sendAll(most) {
    for (let left = most, skip = 0; left > 0; ) {
      const found = await this.call("queue_retry", { queue: this.#queue, skip, most: Math.min(left, 1000) });
      if (!found.sent && !found.refused) break;
      left -= found.sent + found.refused;
      skip = found.skip;
    }
  }

  #cancel(id, name) {
    this.#order(
      `Cancel ${name} ${id}?`,
      "It does not run. If it runs already, its worker is notified and its result is dropped.",
      "Cancel the job",
      true,
      [],
      () => this.call("queue_cancel", { queue: this.#queue, id }),
    );
  }

  #askPurge() {
    const title = `Remove ${count(this.#number, "dead letter")} of ${this.#queue}?`;
    const fields = [{ name: "confirm", label: `Type the queue’s name, ${this.#queue}, to confirm`, expected: this.#queue }];
    const most = this.#number;
    this.#order(title, "They are removed for good.", "Remove all", true, fields, ({ confirm }) => this.#removeAll(most, confirm));
  }

  /** One call removes a thousand at most, and fewer where they are large. Those that came since it was asked are not meant. */
  async #removeAll(number, confirm) {
    const asked = { queue: this.#queue, state: "dead", confirm };
    let removed = 1;
    for (let left = number; left > 0 && removed; left -= removed)
      ({ removed } = await this.call("queue_purge", { ...asked, most: Math.min(left, 1000) }));
  }

  #order(title, text, button, danger, fields, run) {
    const done = `${title.slice(0, -1)}: done.`;
    ask({ title, text, button, danger, fields, done, run: async (values) => void (await run(values), this.#poll.now()) });
  }
}

/** The last error's first line. */
const errorOf = ({ failures = [] }) => (failures.at(-1)?.error ?? "").split("\n")[0];

/** When it is due, or since when it is as it is. */
function whenOf(ms, state) {
  if (state === "delayed" && ms > Date.now()) return `in ${span((ms - Date.now()) / 1000)}`;
  return ago(ms);
}
