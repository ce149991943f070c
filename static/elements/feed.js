// <gateway-feed>: the publications of one channel, as they arrive. elements.js describes it.

import { ChannelStore } from "../stores.js";
import { GatewayElement, asText, h, paced } from "./base.js";
import { feedStyles } from "./styles.js";

const END_PX = 24; // so near to its end, a list counts as scrolled to the end

export const FEED_TEXTS = {
  waiting: "Connecting …",
  catchingUp: "Catching up …",
  refused: (reason) => `The gateway refused this channel: ${reason}`,
  gap: "Some publications were missed, and history no longer holds them.",
  recovered: "caught up",
  arrived: (count) => `${count} new entries`,
  older: "Older",
  empty: "Nothing yet.",
};

export class GatewayFeed extends GatewayElement {
  static ownAttributes = ["channel", "history", "limit", "order"];
  static texts = FEED_TEXTS;
  #store = null;
  #drawNow; // what the store holds
  #parts = {};

  async publish(data) {
    if (!this.#store) throw new TypeError("this <gateway-feed> follows no channel");
    await this.#store.publish(data);
  }

  get #oldestFirst() {
    return this.getAttribute("order") === "oldest-first";
  }

  _draw() {
    const { texts } = this;
    const label = this.getAttribute("label") ?? this.getAttribute("channel");
    const state = h("p", { part: "state", class: "state", role: "status" });
    const fault = h("p", { part: "fault", class: "fault", role: "alert" });
    const list = h("ol", { part: "list", class: "list", role: "list", "aria-label": label });
    const empty = h("div", { part: "empty", class: "empty" }, h("slot", { name: "empty" }, texts.empty));
    const older = h("button", { type: "button", part: "older", class: "older", onclick: () => this.#older() }, texts.older);
    const body = this.#oldestFirst ? [older, list, empty] : [list, empty, older];
    const feed = h("section", { part: "feed", class: "feed", "aria-label": label }, h("slot", { name: "heading" }), state, fault, ...body);
    empty.hidden = older.hidden = true;
    this.#parts = { state, fault, list, empty, older };
    this._root.adoptedStyleSheets = feedStyles();
    this._root.replaceChildren(feed, this._status);
  }

  _follow(gateway) {
    const channel = this.getAttribute("channel");
    if (!channel) return null;
    const store = new ChannelStore(gateway, channel, { history: this._number("history", 0), limit: this._number("limit", 100) });
    this.#store = store;
    store.arrived = (publication) => this.#arrived(publication);
    let gaps = 0;
    const { now, soon, stop } = paced(() => {
      this.#changed(store.snapshot);
      if (store.snapshot.gaps > gaps) this._emit("gap", { channel });
      gaps = store.snapshot.gaps;
    });
    this.#drawNow = now;
    const unsubscribe = store.subscribe(soon);
    now();
    return () => {
      stop();
      unsubscribe();
      this.#store = null;
    };
  }

  /** A list that is taken out of the page goes back to its top. */
  _moved() {
    const { list } = this.#parts;
    if (this.#oldestFirst) list.scrollTop = list.scrollHeight;
  }

  #changed({ publications, state, reason, more, gaps, error }) {
    const { list, fault, empty, older } = this.#parts;
    this.#showState(state, gaps);
    fault.textContent = state === "refused" ? this.texts.refused(reason) : (error?.message ?? "");
    empty.hidden = publications.length > 0 || state !== "live";
    older.hidden = !more;
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < END_PX;
    const shown = this.#oldestFirst ? publications : publications.toReversed();
    this._show(list, shown, ({ key }) => key, (row, publication) => this.#fill(row, publication));
    if (this.#oldestFirst && atEnd) list.scrollTop = list.scrollHeight;
    // Where it scrolls, the keyboard has to be able to scroll it.
    if (list.scrollHeight > list.clientHeight) list.tabIndex = 0;
    else list.removeAttribute("tabindex");
  }

  #showState(state, gaps) {
    const { texts } = this;
    const words = { waiting: texts.waiting, "catching up": texts.catchingUp, live: gaps ? texts.gap : "" }[state] ?? "";
    this.#parts.state.classList.toggle("waiting", state === "waiting" || state === "catching up");
    if (this.#parts.state.textContent !== words) this.#parts.state.textContent = words;
  }

  #fill(row, publication) {
    if (row.filled) return;
    row.filled = true;
    row.element.className = publication.recovered ? "item recovered" : "item";
    row.element.setAttribute("part", row.element.className);
    const badge = publication.recovered ? h("span", { part: "badge", class: "badge" }, this.texts.recovered) : null;
    const { user, text } = wordsOf(publication.data);
    const from = user ? [h("span", { part: "user", class: "user" }, user), " "] : [];
    row.element.append(...(badge ? [badge] : []), this._slot(row, publication, ...from, h("span", { part: "text", class: "text" }, text)));
  }

  #arrived(publication) {
    this._emit("publication", publication);
    if (this.hasAttribute("quiet")) return;
    const { user, text } = wordsOf(publication.data);
    this._announce(user ? `${user}: ${text}` : text);
  }

  async #older() {
    const { list, older } = this.#parts;
    const [store, drawNow] = [this.#store, this.#drawNow];
    drawNow();
    const shown = list.children.length;
    const { scrollHeight, scrollTop } = list;
    await store.older();
    if (store === this.#store) drawNow();
    const added = list.children.length - shown;
    if (this.#oldestFirst) list.scrollTop = scrollTop + list.scrollHeight - scrollHeight; // what was in view remains in view
    const next = list.children[this.#oldestFirst ? added - 1 : shown]; // the button is gone: reading continues here
    if (!next || this._root.activeElement === older) return; // after a gap there are fewer than before
    next.tabIndex = -1;
    next.focus();
  }
}

/** What a publication says, as far as the element can know. */
function wordsOf(data) {
  const { user, text } = data ?? {};
  return text === undefined ? { text: asText(data) } : { user: user === undefined ? user : asText(user), text: asText(text) };
}
