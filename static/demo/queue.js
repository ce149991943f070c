// The whole queue, as the demo publishes it whenever it changes: four lanes with their numbers and their jobs.
//
// A job that remains in its lane remains the same element, so that a button is not drawn anew under a pointer or the keyboard's focus.

import { since } from "./api.js";
import { $, attempt, count, h, icon, once } from "./dom.js";

const SHOWN_MOST = 6; // jobs of a lane
const CHANNEL = "work:queue";
const TICK_MS = 500;

export class Queue {
  #shop;
  #lanes = new Map();
  #ahead = 0; // milliseconds by which the clock of the server is ahead of ours

  constructor(shop, { queue, position }, reload) {
    this.#shop = shop;
    for (const element of document.querySelectorAll(".lane")) this.#lanes.set(element.dataset.state, new Lane(shop, element));
    for (const button of $("starters").children) button.addEventListener("click", once(() => this.#start(button)));
    this.show(queue);
    shop.line.follow(CHANNEL, { since: since(position), publication: ({ data }) => this.show(data), gap: reload });
    setInterval(() => this.#tick(), TICK_MS);
  }

  show({ now, numbers, finished, jobs }) {
    this.#ahead = now - Date.now();
    for (const [state, lane] of this.#lanes) {
      const found = jobs[state].map((job) => ({ ...job, state }));
      lane.show(numbers[state], found);
      this.#shop.reports.queued(found);
    }
    $("queue-note").textContent = `${count(finished, "job")} finished so far`;
    this.#tick();
  }

  #start(button) {
    return attempt($("queue-fault"), () => this.#shop.api.startJobs(button.dataset.kind));
  }

  #tick() {
    for (const lane of this.#lanes.values()) lane.tick(Date.now() + this.#ahead);
  }
}

class Lane {
  #shop;
  #element;
  #list;
  #cards = new Map();

  constructor(shop, element) {
    this.#shop = shop;
    this.#element = element;
    this.#list = element.querySelector(".jobs");
  }

  show(number, jobs) {
    this.#element.querySelector(".number").textContent = number;
    const shown = jobs.slice(0, SHOWN_MOST);
    const ids = new Set(shown.map(({ id }) => id));
    for (const [id, card] of this.#cards) {
      if (!ids.has(id)) this.#remove(id, card);
    }
    shown.forEach((job, place) => this.#place(job, place));
    this.#element.querySelector(".more").textContent = number > shown.length ? `and ${number - shown.length} more` : "";
  }

  tick(now) {
    for (const card of this.#cards.values()) card.tick(now);
  }

  #place(job, place) {
    const card = this.#cards.get(job.id) ?? new Card(this.#shop, job);
    this.#cards.set(job.id, card);
    card.show(job);
    if (this.#list.children[place] !== card.element) this.#list.insertBefore(card.element, this.#list.children[place] ?? null);
  }

  /** A button that had the keyboard's focus hands it to the lane. */
  #remove(id, card) {
    const focused = card.element.contains(document.activeElement);
    card.element.remove();
    this.#cards.delete(id);
    if (!focused) return;
    this.#element.tabIndex = -1;
    this.#element.focus();
  }
}

class Card {
  #job;
  #state = h("p", { class: "soft" });
  #error = h("p", { class: "error" });

  constructor(shop, job) {
    const { owner, order } = job.data;
    const act = (name, of, call, symbol) => {
      const run = once(() => attempt($("queue-fault"), () => call(job.id)));
      const about = h("span", { class: "unseen" }, `: ${job.title}`);
      return h("button", { type: "button", class: "small", "data-testid": of, on: { click: run } }, symbol && icon(symbol), name, about);
    };
    const dead = job.state === "dead";
    const mine = !owner || owner === shop.me;
    const buttons = mine && [
      dead && act("Send again", "resend", shop.api.resendJob, "again"),
      order === undefined && act(dead ? "Remove" : "Cancel", dead ? "remove" : "cancel-job", shop.api.cancelJob),
    ];
    const tools = mine && h("div", { class: "row" }, ...buttons.filter(Boolean));
    const attributes = { class: "job", "data-testid": "job", "data-id": job.id, "data-name": job.name };
    this.element = h("li", attributes, h("strong", {}, job.title), this.#state, this.#error, tools || null);
  }

  show(job) {
    this.#job = job;
    this.#error.textContent = job.error;
    this.#error.hidden = !job.error || job.state === "running";
  }

  tick(now) {
    const text = this.#words(now);
    if (this.#state.textContent !== text) this.#state.textContent = text;
  }

  #words(now) {
    const { state, ms, failures, attempts } = this.#job;
    const failed = failures ? `, attempt ${Math.min(failures + 1, attempts)} of ${attempts}` : "";
    if (state === "delayed") return `in ${Math.max(0, Math.ceil((ms - now) / 1000))} s${failed}`;
    if (state === "running") return `for ${Math.max(0, Math.floor((now - ms) / 1000))} s${failed}`;
    if (state === "dead") return `failed ${count(failures, "time")}`;
    return failed ? failed.slice(2) : "waits";
  }
}
