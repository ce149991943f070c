// A chart of the last five minutes: lines of SVG, with the newest value as text, the values under the pointer, and a table of the last
// ones in its place for those who ask for it.

import { h, s, setAttribute, setText } from "./dom.js";
import { SAMPLES } from "./figures.js";
import { NONE, time } from "./units.js";

const WIDTH = 600;
const HEIGHT = 120;
const TABLE_ROWS = 12;
const TABLE_STEP = 5; // seconds between its rows
const BRIDGED_SECONDS = 30; // without a value, as latency where little is published: the line goes on
const DESCRIBED_MS = 15_000; // a description that changes each second would be read out without end

export class Chart {
  #lines;
  #unit;
  #samples = [];
  #pointed = null; // how far left of now the pointer is, in seconds
  #describedAt = 0;

  /** `lines` are [{ name, of, tone }]: `of(sample)` is a value or null. `unit(value)` is its text, `least` the least height in values. */
  constructor({ title, note, unit, lines, least = 1 }) {
    this.#lines = lines.map((line) => ({ ...line, path: s("path", { class: `line ${line.tone ?? ""}` }), value: h("span") }));
    this.#unit = unit;
    this.title = title;
    this.least = least;
    this.area = s("path", { class: "area" });
    this.mark = s("path", { class: "pointed" });
    this.top = h("span", { class: "top" });
    this.at = h("span", { class: "at" }, "now");
    this.plot = this.#plot();
    this.table = h("tbody");
    this.element = this.#figure(title, note);
  }

  #plot() {
    const grid = s("path", { class: "grid", d: `M0 1H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 1}H${WIDTH}` });
    const parts = [grid, this.area, ...this.#lines.map(({ path }) => path), this.mark];
    const on = { pointermove: (event) => this.#point(event), pointerleave: () => this.#point(null) };
    return s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", on }, ...parts);
  }

  #figure(title, note) {
    const several = this.#lines.length > 1;
    const values = this.#lines.map(({ value, name, tone }) =>
      h("p", { class: "value" }, value, several && h("span", { class: `of ${tone ?? ""}` }, name)),
    );
    const heads = ["Time", ...this.#lines.map(({ name }) => name)].map((name) => h("th", { scope: "col" }, name));
    const axis = h("div", { class: "axis soft", "aria-hidden": "true" }, h("span", {}, "5 min ago"), this.at);
    return h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("h2", {}, title), note && h("p", { class: "soft" }, note)),
      h("div", { class: "values" }, ...values),
      h("div", { class: "plot" }, this.top, this.plot, axis),
      h(
        "table",
        { class: "last" },
        h("caption", { class: "unseen" }, `${title}: the last minute`),
        h("thead", {}, h("tr", {}, ...heads)),
        this.table,
      ),
    );
  }

  /** Draws the samples; `tables`: as a table. */
  draw(samples, tables) {
    this.#samples = samples;
    this.element.classList.toggle("as-table", tables);
    this.#write();
    if (tables) this.#fillTable();
    else this.#drawLines();
  }

  #drawLines() {
    const newest = this.#samples.at(-1)?.second ?? 0;
    const values = this.#lines.flatMap(({ of }) => this.#samples.map(of)).filter((value) => value != null);
    const top = nice(Math.max(this.least, ...values));
    setText(this.top, this.#unit(top));
    const x = ({ second }) => WIDTH - ((newest - second) * WIDTH) / (SAMPLES - 1);
    const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - 4);
    for (const { of, path } of this.#lines) path.setAttribute("d", outline(this.#samples, of, x, y, false));
    this.area.setAttribute("d", outline(this.#samples, this.#lines[0].of, x, y, true));
    this.#describe();
  }

  #point(event) {
    const box = event && this.plot.getBoundingClientRect();
    this.#pointed = event ? Math.round((1 - (event.clientX - box.left) / box.width) * (SAMPLES - 1)) : null;
    this.#write();
  }

  /** The newest values, or those under the pointer. */
  #write() {
    const newest = this.#samples.at(-1);
    const second = newest && newest.second - (this.#pointed ?? 0);
    const pointed = this.#samples.find((each) => each.second === second);
    for (const { value, of } of this.#lines) {
      const sample = this.#pointed === null ? this.#newest(of) : pointed;
      setText(value, sample ? this.#unit(of(sample)) : NONE);
    }
    const x = WIDTH - ((this.#pointed ?? 0) * WIDTH) / (SAMPLES - 1);
    setAttribute(this.mark, "d", this.#pointed === null ? "" : `M${x.toFixed(1)} 0V${HEIGHT}`);
    setText(this.at, this.#pointed ? `${this.#pointed} s ago` : "now");
  }

  /** The newest sample that has a value, unless that is too old to be called so. */
  #newest(of) {
    const found = this.#samples.findLast((sample) => of(sample) != null);
    return found && this.#samples.at(-1).second - found.second <= BRIDGED_SECONDS ? found : null;
  }

  #describe() {
    if (Date.now() < this.#describedAt + DESCRIBED_MS) return;
    if (this.#samples.length) this.#describedAt = Date.now();
    const parts = this.#lines.map(({ name, of }) => {
      const values = this.#samples.map(of).filter((value) => value != null);
      if (!values.length) return `${name}: no value yet`;
      return `${name}: now ${this.#unit(values.at(-1))}, between ${this.#unit(Math.min(...values))} and ${this.#unit(Math.max(...values))}`;
    });
    setAttribute(this.plot, "aria-label", `${this.title} of the last five minutes. ${parts.join(". ")}.`);
  }

  #fillTable() {
    const rows = [];
    for (let at = this.#samples.length - 1; at >= 0 && rows.length < TABLE_ROWS; at -= TABLE_STEP) rows.push(this.#samples[at]);
    const cells = (sample) => this.#lines.map(({ of }) => h("td", {}, this.#unit(of(sample))));
    this.table.replaceChildren(
      ...rows.map((sample) => h("tr", {}, h("th", { scope: "row" }, time(sample.second * 1000)), ...cells(sample))),
    );
  }
}

/** The least round number that is not smaller, so that the line fills the height. */
export function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

/** A line that is interrupted where values are missing for long; `closed`: the area under it. A value alone is a dot. */
function outline(samples, of, x, y, closed) {
  const parts = [];
  let run = [];
  const end = () => {
    if (run.length) parts.push(closed ? `M${x(run[0]).toFixed(1)} ${HEIGHT}L${points(run)}V${HEIGHT}Z` : `M${points(run)}`);
    run = [];
  };
  const points = (some) =>
    some.map((sample) => `${x(sample).toFixed(1)} ${y(of(sample)).toFixed(1)}`).join("L") + (some.length > 1 ? "" : "h0");
  for (const sample of samples) {
    if (of(sample) == null) continue;
    if (run.length && sample.second - run.at(-1).second > BRIDGED_SECONDS) end();
    run.push(sample);
  }
  end();
  return parts.join("");
}
