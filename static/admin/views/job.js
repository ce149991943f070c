// All of one job: its data, its attempts and what failed, its result.

import { ask } from "../dialog.js";
import { h, setText } from "../dom.js";
import { Facts } from "../facts.js";
import { address } from "../route.js";
import { json, time } from "../units.js";
import { View } from "../view.js";

const EVERY_MS = 2000;
const SHOWN_APART = ["id", "name", "state", "ms"];

export class Job extends View {
  #queue;
  #id;
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #facts = new Facts();
  #data = h("pre", { class: "data" });
  #result = h("pre", { class: "data" });
  #failures = h("ol", { class: "publications" });
  #shown = "";
  #again = h("button", { type: "button", hidden: true, on: { click: () => this.#retry() } }, "Send again");
  #cancel = h("button", { type: "button", class: "danger", hidden: true, on: { click: () => this.#askCancel() } }, "Cancel");

  constructor(console, { parts: [queue, id] }) {
    super(console, "Job", { back: [address("queues", [queue]), `Queue ${queue}`] });
    this.#queue = queue;
    this.#id = id;
    this.add(
      this.#facts.element,
      part("Data", this.#data),
      (this.failed = part("Failures", this.#failures)),
      (this.ended = part("Result", this.#result)),
    );
    if (this.session.mayWrite) this.tools.append(this.#again, this.#cancel);
  }

  show() {
    this.#poll.now();
  }

  async #ask(signal) {
    const job = await this.call("job", { queue: this.#queue, id: this.#id }, signal);
    const { name, state, ms, data, outcome, failures = [] } = job;
    const others = Object.entries(job).filter(
      ([key, value]) => !SHOWN_APART.includes(key) && typeof value !== "object" && value !== "" && value !== 0,
    );
    setText(this.heading, name || "Job");
    this.#facts.show([["Id", this.#id, "code"], ["State", state], ["Since", ms && time(ms)], ...others.map(factOf)]);
    setText(this.#data, json(data));
    setText(this.#result, json(outcome));
    this.ended.hidden = outcome === undefined;
    this.failed.hidden = !failures.length;
    this.#showFailures(failures);
    this.#again.hidden = state !== "dead";
    this.#cancel.hidden = ["done", "dead", "none"].includes(state);
  }

  #showFailures(failures) {
    if (json(failures) === this.#shown) return;
    this.#shown = json(failures);
    this.#failures.replaceChildren(
      ...failures.map(({ error, at, attempt, worker }) => {
        const about = [`attempt ${attempt}`, time(at), worker && `worker ${worker}`].filter(Boolean).map((text) => h("span", {}, text));
        return h("li", {}, h("p", { class: "about soft" }, ...about), h("pre", { class: "data" }, error));
      }),
    );
  }

  #retry() {
    ask({
      title: "Send this dead letter again?",
      text: "It is ready at once, with all its attempts.",
      button: "Send again",
      danger: false,
      done: "Sent again.",
      run: async () => void (await this.call("queue_retry", { queue: this.#queue, ids: [this.#id] }), this.#poll.now()),
    });
  }

  #askCancel() {
    ask({
      title: "Cancel this job?",
      text: "It does not run. If it runs already, its worker is notified and its result is dropped.",
      button: "Cancel the job",
      done: "The job is cancelled.",
      run: async () => void (await this.call("queue_cancel", { queue: this.#queue, id: this.#id }), this.#poll.now()),
    });
  }
}

/** What is named …_ms and is a moment is shown as one. */
function factOf([key, value]) {
  const name = `${key.charAt(0).toUpperCase()}${key.slice(1)}`.replaceAll("_", " ");
  return [name, typeof value === "number" && value > 1e12 ? time(value) : value];
}

const part = (title, content) => h("section", { class: "card" }, h("h2", {}, title), content);
