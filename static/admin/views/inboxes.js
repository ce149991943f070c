// The inbox of one user: what is in it, and what of it is unread.

import { h, setText } from "../dom.js";
import { address } from "../route.js";
import { count, json, time } from "../units.js";
import { View } from "../view.js";

const LIMIT = 20;
const HINT = "Whose inbox? Enter the id of a user.";

export class Inboxes extends View {
  #user = "";
  #next = null;
  #poll = this.poll((signal) => this.#ask(signal));
  #input = h("input", {
    id: "inbox-user",
    type: "search",
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    "data-search": true,
    "aria-keyshortcuts": "/",
  });
  #summary = h("p", { class: "soft", role: "status" }, HINT);
  #list = h("ol", { class: "notifications" });
  #older = h("button", { type: "button", hidden: true, on: { click: () => this.#more() } }, "Older");
  #links = h("p", { class: "links" });

  constructor(console) {
    super(console, "Inboxes");
    const open = (event) => {
      event.preventDefault();
      location.hash = address("inboxes", [this.#input.value.trim()].filter(Boolean));
    };
    const button = h("button", { type: "submit", class: "primary" }, "Show");
    const field = h("div", { class: "field" }, h("label", { for: "inbox-user" }, "User"), this.#input);
    this.head.firstChild.append(this.#summary);
    this.add(h("form", { class: "fields", role: "search", on: { submit: open } }, field, button), this.#links, this.#list, this.#older);
  }

  show({ parts: [user = ""] }) {
    this.#user = user;
    this.#input.value = user;
    setText(this.heading, user ? `Inbox of ${user}` : "Inboxes");
    if (!user) return;
    const links = [
      [address("connections", [], { user }), "Connections"],
      [address("channels", [`notifications:${user}`]), "Its channel"],
      [address("why", [], { user, channel: `notifications:${user}` }), "Why?"],
    ];
    this.#links.replaceChildren(...links.map(([href, label]) => h("a", { href }, label)));
    this.#poll.now();
  }

  async #ask(signal) {
    const page = await this.call("inbox", { user: this.#user, limit: LIMIT }, signal);
    setText(this.#summary, `${count(page.unread, "unread notification")} of ${count(page.total, "notification")}`);
    this.#list.replaceChildren();
    this.#append(page);
    if (!page.notifications.length) this.#list.append(h("li", { class: "empty" }, "The inbox is empty."));
  }

  async #more() {
    const before = this.#next;
    try {
      const page = await this.call("inbox", { user: this.#user, limit: LIMIT, before });
      if (before === this.#next) this.#append(page); // else to a second click, whose answer would be shown twice
    } catch (error) {
      this.notice.show(error.message);
    }
  }

  #append({ notifications, next }) {
    this.#list.append(...notifications.map(notificationOf));
    this.#next = next ?? null;
    this.#older.hidden = !next;
  }
}

function notificationOf({ id, offset, ms, unread, data }) {
  const state = unread ? h("span", { class: "badge good" }, "unread") : h("span", { class: "badge plain" }, "read");
  const about = h("p", { class: "about soft" }, state, h("code", {}, id), h("time", {}, time(ms)), h("span", {}, `offset ${offset}`));
  return h("li", { class: unread ? "unread" : null }, about, h("pre", { class: "data" }, json(data)));
}
