// <gateway-inbox>: a bell with the number of unread notifications, and the panel with their list. elements.js describes it.

import { InboxStore } from "../stores.js";
import { GatewayElement, asText, h, icon, safeLink } from "./base.js";
import { inboxStyles } from "./styles.js";
import { showTime } from "./time.js";

const COUNTED_MOST = 99; // on the bell
const MARGIN_PX = 8; // between the panel, the bell and the window's edges
const ROOM_PX = 240; // with less below the bell, and more above it, the panel is above

export const INBOX_TEXTS = {
  title: "Notifications",
  unread: (count) => `${count} unread`,
  isUnread: "unread: ",
  arrived: (count) => `${count} new notifications`,
  readAll: "Mark all read",
  read: "Mark as read",
  close: "Close",
  older: "Older",
  empty: "Nothing yet.",
};

export class GatewayInbox extends GatewayElement {
  static ownAttributes = ["user", "size", "inline"];
  static texts = INBOX_TEXTS;
  #store = null;
  #parts = {};
  #error = null; // the store's, as it is shown
  #counted = null; // the number with which "unread" was last emitted

  get unread() {
    return this.#store?.snapshot.unread ?? null;
  }

  /** Whether its list is shown. */
  get open() {
    return this.#inline || Boolean(this.#parts.panel?.matches(":popover-open"));
  }

  show(fault = "") {
    if (!this.#inline) this.#parts.panel?.showPopover();
    this.#showFault(fault);
  }

  hide() {
    if (!this.#inline) this.#parts.panel?.hidePopover();
  }

  // Its making.

  get #inline() {
    return this.hasAttribute("inline");
  }

  get #label() {
    return this.getAttribute("label") ?? this.texts.title;
  }

  _draw() {
    const { texts } = this;
    const button = (part, label, act) => h("button", { type: "button", part, class: part, onclick: act }, label);
    const heading = h("h2", { id: "heading", part: "heading", tabindex: "-1" }, h("slot", { name: "title" }, this.#label));
    const readAll = button("read-all", texts.readAll, () => this.#readAll());
    const close = this.#inline ? null : button("close", icon("close"), () => this.hide());
    close?.setAttribute("aria-label", texts.close);
    const fault = h("p", { part: "fault", class: "fault", role: "alert" });
    const list = h("ol", { part: "list", class: "list", role: "list", "aria-labelledby": "heading" });
    const empty = h("div", { part: "empty", class: "empty" }, h("slot", { name: "empty" }, texts.empty));
    const older = button("older", texts.older, () => this.#older());
    const panel = h("div", { part: "panel", class: "panel", id: "panel", "aria-labelledby": "heading" });
    panel.append(h("div", { part: "head", class: "head" }, heading, readAll, close), fault, list, empty, older);
    empty.hidden = older.hidden = readAll.disabled = true;
    this.#parts = { heading, readAll, fault, list, empty, older, panel };
    this._root.adoptedStyleSheets = inboxStyles();
    this._root.replaceChildren(...(this.#inline ? [] : [this.#bell(panel)]), panel, this._status);
    panel.setAttribute("role", this.#inline ? "region" : "dialog");
    this.#count(this.unread);
  }

  #bell(panel) {
    const count = h("span", { part: "count", class: "count", "aria-hidden": "true" });
    const attributes = { type: "button", part: "bell", class: "bell", "aria-haspopup": "dialog", "aria-expanded": "false" };
    const bell = h("button", attributes, h("slot", { name: "bell" }, icon("bell")), count);
    panel.popover = "auto";
    bell.popoverTargetElement = panel;
    panel.addEventListener("beforetoggle", ({ newState }) => (newState === "open" ? this.#place() : this.#refocus()));
    panel.addEventListener("toggle", ({ newState }) => this.#toggled(newState === "open"));
    Object.assign(this.#parts, { bell, count });
    return bell;
  }

  _follow(gateway) {
    const store = new InboxStore(gateway, { user: this.getAttribute("user"), size: this._number("size", 20), listing: this.#inline });
    this.#store = store;
    store.arrived = (event) => this.#arrived(event);
    const stop = store.subscribe(() => this.#changed(store.snapshot));
    this.#changed(store.snapshot);
    return () => {
      stop();
      this.#store = null;
    };
  }

  // The panel.

  #toggled(open) {
    const { bell, heading } = this.#parts;
    this.#followWindow(open);
    bell.setAttribute("aria-expanded", String(open));
    this.#store?.show(open);
    if (open) heading.focus();
  }

  #followWindow(follow) {
    const on = follow ? "addEventListener" : "removeEventListener";
    window[on]("resize", this.#place);
    window[on]("scroll", this.#place, true); // also of an element that holds the bell
  }

  /** A panel that is removed while it is open closes without an event. */
  _clear() {
    super._clear();
    this.#followWindow(false);
  }

  _moved() {
    if (!this.#inline) this.#toggled(this.open);
  }

  /** Before the panel closes: a browser does not return the focus to a button that is in a shadow. */
  #refocus() {
    const { bell, panel } = this.#parts;
    if (panel.contains(this._root.activeElement)) bell.focus();
  }

  /** Below the bell, or above it where there is more room. */
  #place = () => {
    const { bell, panel } = this.#parts;
    const { top, bottom, right } = bell.getBoundingClientRect();
    const above = innerHeight - bottom < Math.min(top, ROOM_PX);
    panel.style.setProperty("--_bell-right", `${right}px`);
    panel.style.setProperty("--_room", `${(above ? top : innerHeight - bottom) - 2 * MARGIN_PX}px`);
    panel.style.top = above ? "auto" : `${bottom + MARGIN_PX}px`;
    panel.style.bottom = above ? `${innerHeight - top + MARGIN_PX}px` : "auto";
  };

  // What is shown.

  #changed({ unread, notifications, more, error }) {
    const { list, empty, older, readAll, heading } = this.#parts;
    if (error !== this.#error) this.#showFault(error?.message);
    this.#error = error;
    this.#count(unread);
    readAll.disabled = !unread;
    older.hidden = !more;
    empty.hidden = notifications?.length !== 0;
    const lost = this._show(list, notifications ?? [], ({ id }) => id, (row, notification) => this.#fill(row, notification));
    if (lost) heading.focus();
  }

  #showFault(sentence = "") {
    this.#parts.fault.textContent = sentence;
  }

  #count(unread) {
    const { bell, count } = this.#parts;
    if (bell) {
      bell.setAttribute("aria-label", unread ? `${this.#label}, ${this.texts.unread(unread)}` : this.#label);
      count.textContent = unread > COUNTED_MOST ? `${COUNTED_MOST}+` : unread || "";
    }
    if (unread === this.#counted) return;
    this.#counted = unread;
    this._emit("unread", { unread });
  }

  #fill(row, notification) {
    const { offset, unread, data, ms } = notification;
    if (row.offset === offset && row.unread === unread) return;
    const focused = row.element.contains(this._root.activeElement);
    const content = row.offset === offset ? row.content : this._slot(row, notification, ...this.#content(data, ms));
    Object.assign(row, { offset, unread, content });
    row.element.className = unread ? "item unread" : "item";
    row.element.setAttribute("part", row.element.className);
    const open = this.#link(notification, unread ? h("span", { class: "unseen" }, this.texts.isUnread) : null, content);
    row.element.replaceChildren(open, ...(unread ? [this.#readButton(notification)] : []));
    if (focused) open.focus();
  }

  #content(data, ms) {
    const { title, text } = wordsOf(data);
    const time = h("time", { part: "time" });
    showTime(time, ms, this._language);
    return [
      title ? h("span", { part: "title", class: "title" }, title) : null,
      text ? h("span", { part: "text", class: title ? "text" : "text alone" }, text) : null,
      time,
    ];
  }

  #link(notification, ...content) {
    const href = safeLink(notification.data.url);
    const attributes = { part: "open", class: "open", onclick: (event) => this.#choose(notification, event) };
    return href ? h("a", { ...attributes, href }, ...content) : h("button", { ...attributes, type: "button" }, ...content);
  }

  #readButton({ id, data }) {
    const { title, text } = wordsOf(data);
    const label = `${this.texts.read}: ${title || text}`;
    const attributes = { type: "button", part: "read", class: "read", title: this.texts.read, "aria-label": label };
    return h("button", { ...attributes, onclick: () => this.#attempt((store) => store.read({ ids: [id] })) });
  }

  // What the user does, and what arrives.

  #arrived(event) {
    this._emit("notification", event);
    const { title, text } = wordsOf(event.data);
    if (!event.recovered) this._announce([title, text].filter(Boolean).join(": "));
  }

  #choose(notification, event) {
    this.#attempt((store) => store.read({ ids: [notification.id] }));
    if (this._emit("choose", notification)) this.hide();
    else event.preventDefault();
  }

  #readAll() {
    this.#parts.heading.focus(); // the button is about to be disabled, and would lose the keyboard's focus
    this.#attempt((store) => store.read({ all: true }));
  }

  async #older() {
    const { list, older } = this.#parts;
    const shown = list.children.length;
    await this.#attempt((store) => store.older());
    if (this._root.activeElement === older || !this._root.activeElement) list.children[shown]?.querySelector(".open").focus();
  }

  async #attempt(act) {
    this.#showFault();
    try {
      await act(this.#store);
    } catch (error) {
      this.#showFault(error.message);
    }
  }
}

/** What a notification says: its title and its text, or all of it where it has neither. */
function wordsOf({ id, title, text, ...rest }) {
  if (title || text) return { title: title && asText(title), text: text && asText(text) };
  return { title: undefined, text: asText(rest) };
}
