// What both elements share: where their gateway comes from, their shadow, and how rows are made and reused.

import { Gateway } from "../gateway.js";
import { showTime } from "./time.js";

const LINKS = new Set(["http:", "https:", "mailto:"]);
const ANNOUNCE_MS = 1000; // what arrives within it is announced together
const DRAW_MS = 16; // a frame: what changes within it is drawn together
const REFRESH_MS = 20_000; // of relative times: a third of the smallest step that is shown
const ICONS = {
  bell: "M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15zM10 20.6a2.3 2.3 0 0 0 4 0",
  close: "m6 6 12 12M18 6 6 18",
};
const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. An attribute that is null is left out; names that begin with "on" are listeners. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export function icon(name) {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS(SVG, tag));
  for (const [attribute, value] of Object.entries({ viewBox: "0 0 24 24", "aria-hidden": "true" })) svg.setAttribute(attribute, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** The address, if a link to it cannot run a script; else null. */
export function safeLink(address) {
  if (typeof address !== "string" || !address || !URL.canParse(address, document.baseURI)) return null;
  const url = new URL(address, document.baseURI);
  return LINKS.has(url.protocol) ? url.href : null;
}

/** The text of data that has no form of its own. */
export const asText = (data) => (typeof data === "string" ? data : JSON.stringify(data));

/** A page's `lang` as the functions of Intl take it, which throw for what is no language tag. Undefined is the browser's own language. */
export function languageTag(lang) {
  const tag = (lang ?? "").replaceAll("_", "-");
  try {
    return Intl.getCanonicalLocales(tag)[0];
  } catch {
    return undefined;
  }
}

const valueAt = (values, path) => path.split(".").reduce((at, name) => at?.[name], values);

/**
 * Functions that call `draw`: `soon` at once, or together with what changes within a frame of the last call, since thousands of
 * publications may arrive at once; `now` does not wait; `stop` forgets what waits.
 */
export function paced(draw) {
  let timer;
  let next = -Infinity;
  const stop = () => {
    clearTimeout(timer);
    timer = undefined;
  };
  const now = () => {
    stop();
    draw();
    next = performance.now() + DRAW_MS;
  };
  const soon = () => {
    const waitMs = next - performance.now();
    if (waitMs <= 0) now(); // also where a timer is late, as within one long turn of the page
    else timer ??= setTimeout(now, waitMs);
  };
  return { now, soon, stop };
}

/** Clones the page's template with the values that its data-field and data-href name. */
function fill(template, values, language) {
  const content = template.content.cloneNode(true);
  for (const element of content.querySelectorAll("[data-field]")) {
    const value = valueAt(values, element.dataset.field);
    element.hidden = value == null || value === "";
    if (element.hidden) continue;
    if (element.localName === "time") showTime(element, value, language);
    else element.textContent = asText(value);
  }
  for (const element of content.querySelectorAll("[data-href]")) {
    const link = safeLink(valueAt(values, element.dataset.href));
    if (link) element.setAttribute("href", link);
  }
  return content;
}

// One connection for all elements of the same attributes. It is closed when the last of them has left the page.

const connections = new Map(); // "url token-url" → { gateway, elements }

function borrow(element, url, tokenUrl) {
  const key = `${url} ${tokenUrl}`;
  // Another token is asked for because the last one is over: the browser must not answer with what it stored.
  const token = tokenUrl === null ? undefined : () => fetch(tokenUrl, { cache: "no-store" });
  if (!connections.has(key)) connections.set(key, { gateway: new Gateway({ url: url ?? undefined, token }), elements: new Set() });
  const { gateway, elements } = connections.get(key);
  elements.add(element);
  const giveBack = () => {
    elements.delete(element);
    if (elements.size) return;
    connections.delete(key);
    gateway.close();
  };
  return { gateway, giveBack };
}

export class GatewayElement extends (globalThis.HTMLElement ?? Object) {
  #given = null; // by the page, as a property
  #borrowed = null;
  #stop = null;
  #texts = {};
  #draw = null;
  #restarting = false;
  #waiting = []; // texts to announce
  #announcing; // the timer
  #ticking; // the interval
  #rows = new Map(); // key → { element, slot, light }
  #slots = 0;

  constructor() {
    super();
    this._root = this.attachShadow({ mode: "open" });
    this._status = h("p", { role: "status", class: "unseen" });
  }

  static get observedAttributes() {
    return ["url", "token-url", "label", ...this.ownAttributes];
  }

  get gateway() {
    return this.#given ?? this.#borrowed?.gateway ?? null;
  }

  set gateway(gateway) {
    if (gateway === this.#given) return;
    this.#given = gateway;
    this._restart();
  }

  get texts() {
    return { ...this.constructor.texts, ...this.#texts };
  }

  set texts(texts) {
    const same = Object.keys({ ...texts, ...this.#texts }).every((name) => texts?.[name] === this.#texts[name]);
    this.#texts = { ...texts };
    if (!same) this._restart();
  }

  get draw() {
    return this.#draw;
  }

  /** Another function is for the rows that are made from now on. */
  set draw(draw) {
    this.#draw = draw;
  }

  get _language() {
    return languageTag(this.closest("[lang]")?.lang);
  }

  _number(attribute, otherwise) {
    return Number.parseInt(this.getAttribute(attribute), 10) || otherwise;
  }

  connectedCallback() {
    for (const name of ["gateway", "texts", "draw"]) this.#take(name);
    this.#ticking ??= setInterval(() => this.#refreshTimes(), REFRESH_MS);
    if (this.#stop) this._moved();
    else this._restart();
  }

  /** It was taken out and put in elsewhere within one turn, so that nothing of it has ended. */
  _moved() {}

  /** A property that the page set before this class was defined hides ours: it is set again. */
  #take(name) {
    if (!Object.hasOwn(this, name)) return;
    const value = this[name];
    delete this[name];
    this[name] = value;
  }

  /** Where an element is only moved, it is connected again in the same turn. */
  disconnectedCallback() {
    queueMicrotask(() => this.isConnected || this.#end());
  }

  attributeChangedCallback(_, before, after) {
    if (before !== after) this._restart();
  }

  /** Draws the element anew, and follows what its attributes and properties name, once for all changes of one turn. */
  _restart() {
    if (!this.isConnected || this.#restarting) return;
    this.#restarting = true;
    queueMicrotask(() => {
      this.#restarting = false;
      if (this.isConnected) this.#begin();
    });
  }

  #begin() {
    const before = this.#borrowed; // given back after the next one is borrowed, which may be the same
    this.#leave();
    const [url, tokenUrl] = [this.getAttribute("url"), this.getAttribute("token-url")];
    const named = url !== null || tokenUrl !== null;
    this.#borrowed = !this.#given && named ? borrow(this, url, tokenUrl) : null;
    if (before && before.gateway !== this.#borrowed?.gateway) before.giveBack();
    this._draw();
    if (this.gateway) this.#stop = this._follow(this.gateway);
  }

  #leave() {
    this.#stop?.();
    this.#stop = null;
    this._clear();
  }

  #end() {
    clearInterval(this.#ticking);
    this.#ticking = undefined;
    this.#leave();
    this.#borrowed?.giveBack();
    this.#borrowed = null;
  }

  /** Emits an event of the element. Returns whether the page left it to the element. */
  _emit(name, detail) {
    return this.dispatchEvent(new CustomEvent(name, { detail, cancelable: true }));
  }

  /** A screen reader speaks it when it has finished what it is speaking. Several at once are only counted. */
  _announce(text) {
    this.#waiting.push(text);
    this.#announcing ??= setTimeout(() => {
      this.#announcing = undefined;
      const arrived = this.#waiting.splice(0);
      this._status.textContent = arrived.length === 1 ? arrived[0] : this.texts.arrived(arrived.length);
    }, ANNOUNCE_MS);
  }

  // Rows. A row is in the shadow; what the page's template makes of it is in the page, and is shown in the row's slot.

  _clear() {
    for (const { light } of this.#rows.values()) light?.remove();
    this.#rows.clear();
  }

  /**
   * Shows `values` as the rows of `list`, each filled by `fill(row, value)`, which is called again whenever the list is shown. A row
   * whose key was there before remains the same element, so that the keyboard's focus stays. Returns whether the focus was lost with
   * a row that is gone.
   */
  _show(list, values, key, fill) {
    const focused = this._root.activeElement;
    const wanted = new Map(values.map((value) => [key(value), value]));
    for (const each of [...this.#rows.keys()]) if (!wanted.has(each)) this.#remove(each);
    let place = 0;
    for (const [each, value] of wanted) {
      const row = this.#rows.get(each) ?? this.#add(each);
      fill(row, value);
      if (list.children[place] !== row.element) list.insertBefore(row.element, list.children[place] ?? null);
      place += 1;
    }
    if (focused?.isConnected && focused !== this._root.activeElement) focused.focus(); // its row was moved
    return Boolean(focused) && !this._root.activeElement;
  }

  #add(key) {
    const row = { element: h("li"), slot: `row-${++this.#slots}`, light: null };
    this.#rows.set(key, row);
    return row;
  }

  #remove(key) {
    const { element, light } = this.#rows.get(key);
    element.remove();
    light?.remove();
    this.#rows.delete(key);
  }

  /** The slot in which a row shows what the page's template or function makes of `value`; without one, it shows `otherwise`. */
  _slot(row, value, ...otherwise) {
    row.light?.remove();
    const content = this.#content(value);
    row.light = content === null ? null : h("div", { slot: row.slot }, content);
    if (row.light) this.append(row.light);
    return h("slot", { name: row.slot }, ...otherwise);
  }

  /** Null where the page has nothing of its own for it, or its function throws. */
  #content(value) {
    const template = this.querySelector(":scope > template");
    if (!this.draw) return template && fill(template, value, this._language);
    try {
      return this.draw(value) ?? "";
    } catch (error) {
      reportError(error);
      return null;
    }
  }

  #refreshTimes() {
    const times = [...this._root.querySelectorAll("time"), ...this.querySelectorAll('[slot^="row-"] time[data-field]')];
    for (const time of times) if (time.dateTime) showTime(time, time.dateTime, this._language); // else it shows what is no time
  }
}
