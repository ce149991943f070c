// The last lines of the log of all processes, as they are written.

import { h, onceAFrame, setText } from "../dom.js";
import { replaceAddress, address } from "../route.js";
import { count, time } from "../units.js";
import { Fields, View } from "../view.js";

const LEVELS = ["debug", "info", "warning", "error"];
const SHOWN_MOST = 200;
const EVERY_MS = 10_000; // lines are published live alone: what came while the page was hidden or had no connection has to be asked for
const NEAR_END = 24; // pixels: who has scrolled up reads, and is not moved

export class Log extends View {
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #level = "";
  #paused = false;
  #rows = new Map(); // line → its element
  #fields = new Fields(this, "log", [["text", "Contains"]], () => this.#filter());
  #select = h("select", { id: "log-level", on: { change: () => this.#choose() } });
  #pause = h("button", { type: "button", "aria-pressed": "false", on: { click: () => this.#toggle() } }, "Pause");
  #list = h("ol");
  #box = h("div", { class: "lines", role: "log", "aria-live": "off", "aria-label": "Lines", tabindex: "0" }, this.#list);
  #summary = h("p", { class: "soft" });

  constructor(console) {
    super(console, "Log", {});
    this.tools.append(this.#pause);
    this.#select.append(
      h("option", { value: "" }, "every level"),
      ...LEVELS.slice(1).map((level) => h("option", { value: level }, `${level} and above`)),
    );
    this.#fields.element.append(h("div", { class: "field" }, h("label", { for: "log-level" }, "Level"), this.#select));
    this.head.firstChild.append(this.#summary);
    this.add(this.#fields.element, this.#box);
    this.live.onLines = onceAFrame(() => this.#paused || this.#draw());
    this.atEnd(() => (this.live.onLines = () => {}));
  }

  show({ query }) {
    this.#fields.fill(query);
    this.#level = LEVELS.includes(query.get("level")) ? query.get("level") : "";
    this.#select.value = this.#level;
    this.#draw();
    this.#poll.now();
  }

  async #ask(signal) {
    const { lines } = await this.call("log", { limit: SHOWN_MOST, ...(this.#level && { level: this.#level }) }, signal);
    this.live.addLines(lines);
  }

  #choose() {
    this.#level = this.#select.value;
    this.#filter();
    this.#poll.now();
  }

  #filter() {
    replaceAddress(address("log", [], { ...this.#fields.values, level: this.#level }));
    this.#draw();
  }

  #toggle() {
    this.#paused = !this.#paused;
    this.#pause.setAttribute("aria-pressed", String(this.#paused));
    setText(this.#pause, this.#paused ? "Go on" : "Pause");
    if (!this.#paused) this.#draw();
  }

  get #shown() {
    const wanted = this.#fields.values.text.toLowerCase();
    const least = LEVELS.indexOf(this.#level);
    const fits = ({ level, text, logger }) => LEVELS.indexOf(level) >= least && `${logger} ${text}`.toLowerCase().includes(wanted);
    return this.live.lines.filter(fits).slice(-SHOWN_MOST);
  }

  #draw() {
    const [box, list] = [this.#box, this.#list];
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;
    const shown = this.#shown;
    const rows = new Map(shown.map((line) => [line, this.#rows.get(line) ?? lineOf(line)]));
    for (const [line, element] of this.#rows) if (!rows.has(line)) element.remove();
    this.#rows = rows;
    [...rows.values()].forEach(
      (element, place) => list.children[place] !== element && list.insertBefore(element, list.children[place] ?? null),
    );
    setText(this.#summary, shown.length ? `The last ${count(shown.length, "line")}, of all processes.` : "No line is like that.");
    if (atEnd) box.scrollTop = box.scrollHeight;
  }
}

function lineOf({ ms, level, logger, text, name }) {
  return h(
    "li",
    { class: level },
    h("time", {}, time(ms)),
    h("span", { class: "level" }, level),
    h("span", { class: "soft" }, `${name} ${logger}`),
    h("span", { class: "text" }, text),
  );
}
