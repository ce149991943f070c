// This page's own connection to the gateway, over the gateway's own channels: figures and log lines as they are published, and tails.
//
// The connection's token subscribes it to the console's channel. While the page is visible it asks for figures again and again, since
// processes publish them only while a page watches.

import { Gateway } from "../static/gateway.js";
import { arrivals, Figures } from "./figures.js";

const WATCH_MS = 10_000; // processes go on publishing for 20 s
const HISTORY = 300; // as many as the channel's history holds
const LINES_MOST = 1000;
const LAST_DATE_MS = 8.64e15; // that a Date can be

export class Live {
  figures = new Figures();
  lines = []; // of the log, oldest first
  #session;
  #channel; // the console's own
  #gateway;
  #watching;
  #began = false;
  #early = []; // what arrived before the history was read, and when: [data, unix ms]
  #tails = new Map(); // channel → { publication, state }
  #listeners = new Set();

  constructor(session) {
    this.#session = session;
    this.#gateway = new Gateway({ token: () => this.#token() });
    this.#gateway.on("state", (event) => this.#changed(event));
    this.#gateway.on("publication", (publication) => this.#received(publication));
    this.#watching = setInterval(() => this.#watch(), WATCH_MS);
    document.addEventListener("visibilitychange", this.#watch);
  }

  async #token() {
    const { token, channel } = await this.#session.call("live");
    this.#channel = channel;
    return token;
  }

  get state() {
    return this.#gateway.state;
  }

  /** The channel of figures and log lines, once it is known. */
  get channel() {
    return this.#channel;
  }

  /** The id of this page's own connection. */
  get client() {
    return this.#gateway.client;
  }

  /** Calls `listener` with each "state" event of gateway.js. Returns a function that removes it. */
  onState(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Follows a channel, whatever its rules say, and without being seen in it. Returns a function that ends it. */
  tail(channel, { publication, state }) {
    const tail = { publication, state };
    this.#tails.set(channel, tail);
    if (this.state === "connected") this.#begin(channel, tail);
    return () => {
      if (this.#tails.get(channel) !== tail) return;
      this.#tails.delete(channel);
      if (channel === this.#channel) return;
      this.#gateway.unsubscribe(channel);
      if (this.state !== "connected") return;
      // It fails only if the connection has ended meanwhile, and its tails with it.
      this.#session.call("untail", { client: this.client, channel }).catch(() => {});
    };
  }

  close() {
    clearInterval(this.#watching);
    document.removeEventListener("visibilitychange", this.#watch);
    this.#listeners.clear();
    this.#gateway.close();
  }

  #changed(event) {
    if (event.state === "connected") this.#connected();
    else for (const [channel, tail] of this.#tails) this.#interrupt(channel, tail);
    for (const listener of this.#listeners) listener(event);
  }

  async #connected() {
    this.#watch();
    for (const [channel, tail] of this.#tails) this.#begin(channel, tail);
    if (this.#began) return;
    this.#began = true;
    const page = await this.#session
      .call("history", { channel: this.#channel, limit: HISTORY, reverse: true })
      .catch(() => ({ publications: [] }));
    const early = this.#early;
    this.#early = null;
    const history = page.publications.map(({ data }) => data).filter(isFigures);
    const arrived = arrivals(history, Date.now());
    for (let at = history.length - 1; at >= 0; at--) this.#take(history[at], arrived[at]);
    for (const [data, at] of early) this.#take(data, at);
  }

  async #begin(channel, tail) {
    try {
      if (channel !== this.#channel) await this.#session.call("tail", { client: this.client, channel });
      tail.state("live");
    } catch (error) {
      tail.state("refused", error.message);
    }
  }

  /** The gateway follows it for this connection only; the next one asks anew. */
  #interrupt(channel, tail) {
    if (channel !== this.#channel) this.#gateway.unsubscribe(channel);
    tail.state("waiting");
  }

  #received({ channel, data, ...rest }) {
    this.#tails.get(channel)?.publication({ data, ...rest });
    if (channel !== this.#channel) return;
    if (this.#early) this.#early.push([data, Date.now()]);
    else this.#take(data, Date.now());
  }

  #take(data, arrived) {
    if (isFigures(data)) this.figures.take(data, arrived);
    else if (data?.kind === "log" && Array.isArray(data.lines)) this.addLines(data.lines.map((line) => ofProcess(data, line)));
  }

  /** Lines that are there already are dropped. Calls `onLines` where there are others. */
  addLines(lines) {
    const known = new Set(this.lines.map(keyOf));
    const fresh = lines.filter((line) => isLine(line) && !known.has(keyOf(line)));
    if (!fresh.length) return;
    this.lines = [...this.lines, ...fresh].sort((one, other) => one.ms - other.ms).slice(-LINES_MOST);
    this.onLines();
  }

  onLines = () => {};

  #watch = () => {
    if (!document.hidden && this.state === "connected") this.#session.call("watch").catch(() => {}); // asked again in ten seconds
  };
}

/** A gateway of another version may publish what this page does not know. */
const isFigures = (data) => data?.kind === "figures" && typeof data.node === "string" && Number.isFinite(data.ms);
const ofProcess = ({ node, name }, line) => ({ node, name, ...line });
const isLine = ({ ms, level }) => Math.abs(ms) <= LAST_DATE_MS && typeof level === "string";

const keyOf = ({ node, seq }) => `${node} ${seq}`;
