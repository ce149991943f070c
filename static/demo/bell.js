// The bell: the number of unread notifications, and their list. Only the inbox knows what is read, so the list shows what the inbox
// answered last: each change of the unread count, made in this tab or in another one of the member, reads the open list again.

import { $, attempt, h } from "./dom.js";
import { time } from "./time.js";
import { toast } from "./toast.js";

const PAGE = 20;
const LISTED_MOST = 100; // in the panel

export class Bell {
  #inbox;
  #go; // function that shows a target, such as post:17
  #toasted; // function that says of a notification whether this page shows a toast for it
  #next = null; // position of the next older page
  #shown = PAGE; // number of notifications that the reader has paged to
  #reading = false; // the list is being read; …
  #stale = false; // … and has to be read again after that

  constructor(line, go, toasted = () => true) {
    this.#inbox = line.inbox;
    this.#go = go;
    this.#toasted = toasted;
    line.gateway.on("unread", ({ unread }) => this.#count(unread));
    line.followInbox({ notification: (event) => this.#notified(event), gap: () => this.#refresh() });
    $("bell-panel").addEventListener("toggle", ({ newState }) => this.#toggled(newState === "open"));
    $("read-all").addEventListener("click", () => {
      $("bell-title").focus(); // the button is about to be disabled, and would lose the keyboard's focus
      this.#read({ all: true });
    });
    $("bell-older").addEventListener("click", () => this.#older());
  }

  get #open() {
    return $("bell-panel").matches(":popover-open");
  }

  #count(unread) {
    $("unread").textContent = unread > 99 ? "99+" : unread || "";
    $("bell").setAttribute("aria-label", unread ? `Notifications, ${unread} unread` : "Notifications");
    $("read-all").disabled = !unread;
    document.title = `${unread ? `(${unread}) ` : ""}${document.title.replace(/^\(\d+\) /, "")}`;
    this.#refresh();
  }

  /** Notifications that were missed get no toast each: the line announces them together. */
  #notified({ data, recovered }) {
    if (!recovered && !this.#open && this.#toasted(data)) toast(data.id, data.text, () => this.#follow(data));
    this.#refresh();
  }

  #toggled(open) {
    $("bell").setAttribute("aria-expanded", String(open));
    if (!open) return;
    this.#shown = PAGE;
    this.#refresh();
    $("bell-title").focus();
  }

  async #refresh() {
    if (!this.#open) return;
    this.#stale = this.#reading;
    if (this.#reading) return;
    this.#reading = true;
    await attempt($("bell-fault"), async () => this.#show(await this.#inbox.list({ limit: this.#shown })));
    this.#reading = false;
    if (this.#stale) this.#refresh();
  }

  #show({ notifications, next }) {
    const held = document.activeElement.closest?.("[data-testid=notification]")?.dataset.id;
    this.#next = next;
    $("bell-list").replaceChildren(...notifications.map((each) => this.#row(each)));
    $("bell-empty").hidden = notifications.length > 0;
    $("bell-older").hidden = !next || notifications.length >= LISTED_MOST;
    if (held) ($("bell-list").querySelector(`[data-id="${CSS.escape(held)}"] button`) ?? $("bell-title")).focus();
  }

  async #older() {
    await attempt($("bell-fault"), async () => {
      const { notifications, next } = await this.#inbox.list({ limit: PAGE, before: this.#next });
      this.#next = next;
      const known = new Set([...$("bell-list").children].map(({ dataset }) => dataset.id));
      const rows = notifications.filter(({ id }) => !known.has(id)).map((each) => this.#row(each));
      $("bell-list").append(...rows);
      this.#shown = Math.min(LISTED_MOST, $("bell-list").children.length);
      $("bell-older").hidden = !next || this.#shown >= LISTED_MOST;
      rows[0]?.querySelector("button").focus();
    }, $("bell-older"));
  }

  #row({ id, unread, data, ms }) {
    const text = h("span", { class: "notification-text" }, data.text);
    const state = unread ? h("span", { class: "unseen" }, "unread: ") : null;
    const go = h("button", { type: "button", class: "notification-go", on: { click: () => this.#follow(data) } }, state, text, time(ms));
    const read = () => this.#read({ ids: [id] });
    const attributes = { type: "button", class: "notification-read", title: "Mark as read", "aria-label": "Mark as read", "data-testid": "read" };
    const mark = unread ? h("button", { ...attributes, on: { click: read } }) : null;
    return h("li", { class: "notification", "data-testid": "notification", "data-id": id, "data-unread": String(unread) }, go, mark);
  }

  async #read(which) {
    await attempt($("bell-fault"), async () => this.#inbox.read(which));
    this.#refresh();
  }

  async #follow({ id, target }) {
    this.#read({ ids: [id] });
    const there = await attempt($("bell-fault"), () => this.#go(target));
    if (there) $("bell-panel").hidePopover();
    else if (!this.#open) $("bell-panel").showPopover(); // it shows the reason
  }
}
