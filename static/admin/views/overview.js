// How it is now: six charts of the last five minutes, and what each process does.

import { Chart } from "../chart.js";
import { h, onceAFrame, setText } from "../dom.js";
import { badge, link, text } from "../fill.js";
import { Table } from "../table.js";
import { address } from "../route.js";
import { bytes, compact, count, milliseconds, number, percent } from "../units.js";
import { View } from "../view.js";

const one = (name, tone) => ({ name, tone, of: (sample) => sample[name] });

const CHARTS = [
  { title: "Connections", unit: number, least: 10, lines: [one("clients")] },
  { title: "Publications", note: "per second", unit: compact, lines: [one("publications")] },
  { title: "Deliveries", note: "per second", unit: compact, lines: [one("deliveries")] },
  {
    title: "Latency",
    note: "of the slowest process",
    unit: milliseconds,
    lines: [one("p50"), one("p99", "second")],
  },
  {
    title: "Catch-ups",
    note: "per second",
    unit: compact,
    lines: [one("recovered"), one("pages", "second")],
  },
  { title: "Gaps", note: "per second", unit: compact, lines: [one("gaps", "bad")] },
];

export class Overview extends View {
  #charts = CHARTS.map((chart) => new Chart(chart));
  #tables = false;
  #summary = h("p", { class: "soft summary" });
  #nodes = new Table({
    caption: "Processes, now",
    key: ({ last }) => last.node,
    empty: "No process has published figures yet.",
    columns: [
      {
        title: "Process",
        fill: link(
          () => address("nodes"),
          ({ last }) => last.name || last.node,
        ),
      },
      { title: "State", fill: badge(stateOf) },
      { title: "Connections", kind: "number", fill: text(({ last }) => number(last.clients)) },
      { title: "Publications/s", kind: "number", fill: text(({ rates }) => compact(rates?.publications)) },
      { title: "Deliveries/s", kind: "number", fill: text(({ rates }) => compact(rates?.deliveries)) },
      { title: "Slow clients", kind: "number", fill: text(({ last }) => number(last.slow)) },
      { title: "Loop lag", kind: "number", fill: text(({ last }) => milliseconds(last.loop_lag_ms)) },
      { title: "Processor", kind: "number", fill: text(({ cpu }) => percent(cpu)) },
      { title: "Memory", kind: "number", fill: text(({ last }) => bytes(last.rss)) },
    ],
  });

  constructor(console) {
    const toggle = h("button", { type: "button", "aria-pressed": "false" }, "Show as tables");
    super(console, "Overview", { tools: [toggle] });
    toggle.addEventListener("click", () => {
      this.#tables = !this.#tables;
      toggle.setAttribute("aria-pressed", String(this.#tables));
      this.#draw();
    });
    const title = h("h2", { id: "processes" }, "Processes");
    const charts = h("div", { class: "charts" }, ...this.#charts.map(({ element }) => element));
    this.head.firstChild.append(this.#summary);
    this.add(charts, h("section", { class: "card", "aria-labelledby": "processes" }, title, this.#nodes.element));
    this.live.figures.changed = onceAFrame(() => this.#draw());
    this.atEnd(() => (this.live.figures.changed = () => {}));
    this.#draw();
  }

  #draw() {
    const { figures } = this.live;
    for (const chart of this.#charts) chart.draw(figures.samples, this.#tables);
    this.#nodes.show(
      [...figures.nodes.values()].sort((one, other) => (one.last.name + one.last.node < other.last.name + other.last.node ? -1 : 1)),
    );
    const { now } = figures;
    setText(this.#summary, now ? summaryOf(now, figures.nodes.size) : "Waiting for the first figures …");
  }
}

function summaryOf(now, nodes) {
  const parts = [
    count(now.users, "user"),
    count(now.channels, "channel"),
    count(now.subs, "subscription"),
    now.bytes != null && `${bytes(now.bytes)}/s`,
  ];
  return `${count(nodes, "process", "processes")}: ${parts.filter(Boolean).join(", ")}`;
}

function stateOf({ last }) {
  if (last.link !== "up") return ["bad", last.link];
  return last.draining ? ["warn", "draining"] : ["good", "up"];
}
