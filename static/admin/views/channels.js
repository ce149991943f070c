// The busiest channels, and the way to any channel by its name.

import { h, setText } from "../dom.js";
import { bar, link, text } from "../fill.js";
import { address } from "../route.js";
import { Table } from "../table.js";
import { count, number } from "../units.js";
import { Fields, View } from "../view.js";

const EVERY_MS = 5000;
const LIMIT = 100;
const GLOB = /[*?[]/;

export class Channels extends View {
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #fields = new Fields(this, "channels", [["pattern", "Name contains", "posts: or *:tech"]], () => this.#search());
  #most = 1;
  #table = new Table({
    caption: "Channels, busiest first",
    key: ({ name }) => name,
    empty: "No channel like that has followers now.",
    columns: [
      {
        title: "Channel",
        kind: "wide",
        fill: link(
          ({ name }) => address("channels", [name]),
          ({ name }) => name,
        ),
      },
      {
        title: "Share of the busiest",
        kind: "share",
        fill: bar(
          ({ clients }) => clients,
          () => this.#most,
        ),
      },
      { title: "Followers", kind: "number", fill: text(({ clients }) => number(clients)) },
    ],
  });
  #total = h("p", { class: "soft", role: "status" });
  #open = h("a", { class: "button" });

  constructor(console) {
    super(console, "Channels");
    this.head.firstChild.append(this.#total);
    this.#fields.element.append(this.#open);
    this.add(this.#fields.element, this.#table.element);
  }

  show({ query }) {
    this.#fields.fill(query);
    this.#search();
  }

  #search() {
    const { pattern } = this.#fields.values;
    this.#open.hidden = !pattern || GLOB.test(pattern);
    this.#open.href = address("channels", [pattern]);
    setText(this.#open, `Open ${pattern}`);
    this.#poll.now();
  }

  async #ask(signal) {
    const { pattern } = this.#fields.values;
    const asked = pattern ? { pattern: GLOB.test(pattern) ? pattern : `*${pattern}*` } : {};
    const { channels, total } = await this.call("channels_busy", { ...asked, limit: LIMIT }, signal);
    this.#most = Math.max(1, ...channels.map(({ clients }) => clients));
    this.#table.show(channels);
    setText(
      this.#total,
      total > channels.length ? `${count(total, "channel")}; the ${channels.length} busiest of them` : count(total, "channel"),
    );
  }
}
