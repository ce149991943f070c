// The reports of the months, one row each. A row shows the job of its report, if there is one, else its file.
//
// Progress arrives in the report's own channel, which its owner alone may follow; the queue knows whether the job waits, runs or failed.

import { since } from "./api.js";
import { $, attempt, h, icon, once } from "./dom.js";
import { time } from "./time.js";

const WAITS = { ready: "Waits for a worker", running: "Starts", delayed: "Failed, and is tried again soon", dead: "Failed in every attempt" };

export class Reports {
  #shop;
  #rows;

  constructor(shop, { reports, missing }) {
    this.#shop = shop;
    $("reports-fault").textContent = missing;
    this.#rows = new Map(reports.map((report) => [report.month, new Row(shop, report, Boolean(missing))]));
    $("reports").append(...[...this.#rows.values()].map(({ element }) => element));
    for (const report of reports) {
      const row = this.#rows.get(report.month);
      shop.line.follow(report.channel, { since: since(report.position), publication: ({ data }) => row.published(data), gap: () => this.#reload() });
    }
  }

  show(reports) {
    for (const report of reports) this.#rows.get(report.month)?.show(report);
  }

  /** Where the jobs of the reports are now; what has ended announces itself in its channel. */
  queued(jobs) {
    for (const job of jobs) {
      if (job.name === "demo.report" && job.data.owner === this.#shop.me) this.#rows.get(job.data.month)?.queued(job);
    }
  }

  async #reload() {
    const { reports } = await this.#shop.api.work();
    this.show(reports);
  }
}

class Row {
  #shop;
  #month;
  #title;
  #job; // { id, state }, while there is one
  #file;
  #done = 0;
  #text = "";
  #bar = h("progress", { max: "1", "data-testid": "progress" });
  #words = h("p", { class: "soft words" });
  #make;
  #cancel;
  #fetch;

  constructor(shop, report, unable) {
    this.#shop = shop;
    this.#month = report.month;
    this.#title = report.title;
    this.#bar.setAttribute("aria-label", `Progress of the report of ${report.title}`);
    const of = (what) => h("span", { class: "unseen" }, ` ${what} ${report.title}`);
    this.#make = h("button", { type: "button", "data-testid": "make", disabled: unable, on: { click: once(() => this.#order()) } }, h("span"), of("of"));
    this.#cancel = h("button", { type: "button", "data-testid": "cancel", on: { click: once(() => this.#end()) } }, "Cancel", of("the report of"));
    const load = { type: "button", class: "primary", "data-testid": "download", on: { click: once(() => this.#load()) } };
    this.#fetch = h("button", load, icon("download"), "PDF", of("of"));
    const attributes = { id: `report-${report.month}`, class: "row-card", tabindex: "-1", "data-testid": "report", "data-month": report.month };
    const buttons = h("div", { class: "row" }, this.#make, this.#cancel, this.#fetch);
    this.element = h("li", attributes, h("div", { class: "row-head" }, h("h4", {}, report.title), buttons), this.#bar, this.#words);
    this.show(report);
  }

  show({ file, job, newest }) {
    this.#job = job;
    this.#file = file;
    this.#done = job && newest.job === job.id ? newest.progress : 0;
    this.#text = job && newest.job === job.id ? newest.text : "";
    this.#draw(job?.state ?? (file ? "made" : "none"));
  }

  published(data) {
    if (data.type === "report.ready") {
      this.#file = data.file;
      this.#job = null;
      this.#draw("made", "is ready");
    } else if (data.type === "report.cancelled") {
      if (this.#job && this.#job.id !== data.job) return; // the next one was asked for meanwhile
      this.#job = null;
      this.#draw("cancelled", "was cancelled");
    } else if (data.progress !== undefined) {
      this.#job = { ...this.#job, id: data.job, state: "running" };
      [this.#done, this.#text] = [data.progress, data.text];
      this.#draw("running");
    }
  }

  queued(job) {
    if (job.id !== this.#job?.id || job.state === this.#job.state) return;
    this.#job = job;
    if (job.state !== "running") this.#done = 0;
    this.#draw(job.state);
  }

  /** Draws the row; `news` is announced to those who do not see it. */
  #draw(state, news) {
    const focused = [this.#make, this.#cancel, this.#fetch].find((button) => button === document.activeElement);
    const active = ["ready", "running", "delayed"].includes(state);
    this.element.dataset.state = state;
    this.#bar.hidden = !active && state !== "cancelled";
    this.#bar.value = this.#done;
    this.#words.replaceChildren(...this.#sentence(state));
    this.#make.hidden = active;
    this.#make.firstChild.textContent = this.#file || state === "cancelled" ? "Make it anew" : "Make the report";
    this.#cancel.hidden = !active;
    this.#fetch.hidden = active || !this.#file;
    if (focused?.hidden) (active ? this.#cancel : this.#file ? this.#fetch : this.#make).focus();
    if (news) $("reports-note").textContent = `The report of ${this.#title} ${news}.`;
  }

  #sentence(state) {
    const percent = `${Math.round(this.#done * 100)} %`;
    if (state === "running" && this.#text) return [`${percent} · ${this.#text}`];
    if (state === "cancelled") return [`Cancelled at ${percent}. ${this.#file ? "The report that was there remains." : "Nothing of it remains."}`];
    if (state === "made") return ["Made ", time(this.#file.made_at), ` · ${Math.ceil(this.#file.bytes / 1024)} KB`];
    return [WAITS[state] ?? "Not made yet"];
  }

  #order() {
    return attempt($("reports-fault"), async () => {
      const { id } = await this.#shop.api.makeReport(this.#month);
      if (this.#job?.id === id) return; // its progress was faster than this answer
      this.#job = { id, state: "ready" };
      [this.#done, this.#text] = [0, ""];
      this.#draw("ready");
    });
  }

  /** Its end is published as soon as the worker has ended it. */
  #end() {
    return attempt($("reports-fault"), () => this.#shop.api.cancelJob(this.#job.id));
  }

  /** A link cannot carry the token, so the file is fetched with it and then given to the browser. */
  #load() {
    return attempt($("reports-fault"), async () => {
      const url = URL.createObjectURL(await this.#shop.api.report(this.#month));
      h("a", { href: url, download: `Piazza ${this.#month}.pdf` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    });
  }
}
