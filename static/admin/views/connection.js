// One connection: who and whence, what it follows and at which position, and ending it.

import { ask } from "../dialog.js";
import { h, setText } from "../dom.js";
import { Facts } from "../facts.js";
import { badge, buttons, code, link, text } from "../fill.js";
import { address } from "../route.js";
import { Table } from "../table.js";
import { ago, bytes, count, number, position, shortSince, sinceMs, time } from "../units.js";
import { View } from "../view.js";

const EVERY_MS = 2000;
const STATES = { live: "good", behind: "warn", "catching up": "warn" };

export class Connection extends View {
  #client;
  #user = "";
  #poll = this.poll((signal) => this.#ask(signal), EVERY_MS);
  #facts = new Facts();
  #table;
  #links = h("p", { class: "links" });

  constructor(console, { parts: [client] }) {
    super(console, "Connection", { back: [address("connections"), "Connections"] });
    this.#client = client;
    this.#table = new Table({
      caption: "Subscriptions",
      key: ({ channel }) => channel,
      columns: this.#columns(),
      empty: "It follows no channel.",
    });
    const title = h("h2", { id: "subscriptions" }, "Subscriptions");
    this.add(this.#facts.element, this.#links, h("section", { "aria-labelledby": "subscriptions" }, title, this.#table.element));
    if (this.session.mayWrite) this.tools.append(...this.#buttons());
  }

  show() {
    this.#poll.now();
  }

  #columns() {
    const columns = [
      {
        title: "Channel",
        fill: link(
          ({ channel }) => address("channels", [channel]),
          ({ channel }) => channel,
        ),
      },
      { title: "State", fill: badge(({ state }) => [STATES[state] ?? "plain", state]) },
      { title: "Position", fill: code(({ epoch, offset = 0 }) => position({ epoch, offset })) },
      { title: "Newest", kind: "number", fill: text(({ top }) => (top ? number(top) : "")) },
      { title: "Lag", kind: "number", fill: text(({ lag = 0 }) => number(lag)) },
      { title: "Made by", fill: text(({ side, filtered }) => (filtered ? `${side}, filtered by tags` : side)) },
      { title: "For", kind: "number", fill: text(({ since_ms: since }) => shortSince(since)) },
      { title: "Recovered", fill: text(recoveryOf) },
    ];
    const end = {
      label: "Unsubscribe",
      when: ({ channel }) => channel !== this.live.channel,
      run: ({ channel }) => this.#unsubscribe(channel),
    };
    return this.session.mayWrite
      ? [...columns, { title: "Actions", kind: "acts", fill: buttons([end], ({ channel }) => channel) }]
      : columns;
  }

  async #ask(signal) {
    const found = await this.call("connection", { client: this.#client }, signal);
    if (!this.#links.firstChild) this.#link(found);
    this.#user = found.user;
    this.revoking.hidden = !found.user;
    setText(this.heading, found.user || this.#nameless(found));
    this.#facts.show(factsOf(found));
    this.#table.show(found.subscriptions);
  }

  revoking = h("button", { type: "button", class: "danger", hidden: true, on: { click: () => this.#revoke() } }, "Revoke tokens");

  #nameless({ client, operator }) {
    if (client === this.live.client) return "This page";
    return operator ? "A page of the console" : "Anonymous client";
  }

  #link({ user, address: from }) {
    const links = [[address("connections", [], { address: from }), "Connections of this address"]];
    if (user) {
      links.unshift([address("connections", [], { user }), "Connections of this user"], [address("inboxes", [user]), "Inbox"]);
      links.push([address("permissions", [], { user }), "Permissions"], [address("why", [], { user }), "Why?"]);
    }
    this.#links.append(...links.map(([href, label]) => h("a", { href }, label)));
  }

  #buttons() {
    const disconnect = h("button", { type: "button", class: "danger", on: { click: () => this.#disconnect() } }, "Disconnect");
    return [this.revoking, disconnect];
  }

  #disconnect() {
    ask({
      title: "Disconnect this client?",
      text: `The connection of ${this.#user || "an anonymous client"} is closed. Its library connects again by itself, unless you choose otherwise here.`,
      button: "Disconnect",
      fields: [{ name: "final", kind: "check", label: "The client must not connect again (code 3503 instead of 3000)" }],
      done: "The client is disconnected.",
      run: async ({ final }) => {
        const disconnect = final ? { code: 3503, reason: "force disconnect" } : { code: 3000, reason: "connection closed" };
        await this.call("disconnect", { client: this.#client, disconnect });
        location.hash = address("connections", [], { user: this.#user });
      },
    });
  }

  #revoke() {
    ask({
      title: `Revoke all tokens of ${this.#user}?`,
      text: "Every token that this user has is refused from now on, and all connections of the user end. A new token admits the user again.",
      button: "Revoke",
      done: `The tokens of ${this.#user} are revoked.`,
      run: () => this.call("revoke", { user: this.#user }),
    });
  }

  #unsubscribe(channel) {
    ask({
      title: `Unsubscribe from ${channel}?`,
      text: "The client is notified that its subscription ended. It may subscribe again where the rules allow it.",
      button: "Unsubscribe",
      done: `Unsubscribed from ${channel}.`,
      run: async () => {
        await this.call("unsubscribe", { client: this.#client, channel });
        this.#poll.now();
      },
    });
  }
}

function recoveryOf({ recovered, gap }) {
  if (gap) return "not all: history no longer held it";
  return recovered ? `from ${number(recovered.from)}, ${ago(recovered.at)}` : "";
}

function factsOf(found) {
  const { client, address: from, node, transport, since_ms: since, waiting_bytes: waiting, paused, expires_at: expires } = found;
  return [
    ["Client", client, "code"],
    ["Address", from],
    ["Process", node, "code"],
    ["Transport", transport],
    ["Connected", `${time(since)}, for ${sinceMs(since)}`],
    ["Token expires", expires ? time(expires * 1000) : "never"],
    [
      "Waiting",
      paused ? `${bytes(waiting)}: the client is slow, and is sent nothing more until it has read` : waiting ? bytes(waiting) : "nothing",
    ],
    ["Channels", count(found.channels ?? found.subscriptions.length, "channel")],
  ];
}
