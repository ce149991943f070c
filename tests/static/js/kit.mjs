// What the tests of gateway.js share: a clock that stands still, and a browser whose network the test plays.
//
//   const page = new Page({ token: jwt("ann") });    a Gateway with this platform; random() is 1, so a backoff is its full length
//   await page.connect();                            the socket opens, connect and all subscribes are answered
//   page.socket, page.stream                         the newest WebSocket and EventSource, seen from the server
//   await page.advance(500);                         half a second passes
//   page.states, page.publications, page.gaps        what the gateway's listeners received; page.warnings: the console's

import { Gateway } from "../../../static/gateway.js";

export const GATEWAY = "https://gateway.example/";
export const POSITION = { epoch: "e", offset: 7 }; // of a channel to which a fake server subscribes

/** A text that has the form of a JWT; nothing here checks more. */
export const jwt = (name) => `head.${name}.signature`;

/** Lets everything happen that needs no time: promises, and microtasks. */
export async function settled() {
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
}

class FrozenClock {
  #now = 1_000_000;
  #last = 0;
  #timers = new Map(); // number → { at, act }

  now = () => this.#now;

  setTimeout = (act, delayMs = 0) => {
    this.#timers.set(++this.#last, { at: this.#now + delayMs, act });
    return this.#last;
  };

  clearTimeout = (number) => this.#timers.delete(number);

  get waiting() {
    return this.#timers.size;
  }

  /** Fires what is due meanwhile, in order, each at its own time. */
  async advance(ms) {
    const end = this.#now + ms;
    for (let next; (next = this.#next(end)); await settled()) {
      this.#timers.delete(next.number);
      this.#now = next.at;
      next.act();
    }
    this.#now = end;
    await settled();
  }

  #next(end) {
    const due = [...this.#timers].filter(([, { at }]) => at <= end).map(([number, timer]) => ({ number, ...timer }));
    return due.sort((a, b) => a.at - b.at || a.number - b.number)[0];
  }
}

/** A WebSocket. The methods below `close` are the server's. */
class FakeSocket {
  frames = []; // each is a list of commands, as they were sent

  constructor(url) {
    this.url = String(url);
  }

  send(text) {
    this.frames.push(text.split("\n").map((line) => JSON.parse(line)));
  }

  close() {
    this.isClosed = true;
  }

  open() {
    this.onopen?.();
  }

  /** One frame with these messages. */
  receive(...messages) {
    this.onmessage?.({ data: messages.map((message) => JSON.stringify(message)).join("\n") });
  }

  push(channel, push) {
    this.receive({ push: { channel, ...push } });
  }

  publish(channel, data, offset) {
    this.push(channel, { pub: { data, offset } });
  }

  end(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }

  get commands() {
    return this.frames.flat();
  }

  /** The requests of one method, each with the command's id. */
  sent(method) {
    return this.commands.filter((command) => command[method]).map((command) => ({ id: command.id, ...command[method] }));
  }

  reply(method, result, index = -1) {
    this.receive({ id: this.sent(method).at(index).id, [method]: result });
  }

  refuse(method, error, index = -1) {
    this.receive({ id: this.sent(method).at(index).id, error });
  }
}

class FakeStream {
  #listeners = {};

  constructor(url) {
    this.url = new URL(url);
  }

  addEventListener(event, listener) {
    this.#listeners[event] = listener;
  }

  close() {
    this.isClosed = true;
  }

  send(event, data) {
    this.#listeners[event]?.({ data: JSON.stringify(data) });
  }

  end() {
    this.onerror?.();
  }

  /** A status other than 200, after which an EventSource does not try again. */
  refuse() {
    this.readyState = 2;
    this.end();
  }

  get channels() {
    return this.url.searchParams.getAll("channel");
  }
}

export class Page {
  clock = new FrozenClock();
  sockets = [];
  streams = [];
  requests = []; // { url, options } of each fetch
  warnings = [];
  errors = [];
  states = [];
  publications = [];
  gaps = [];
  answer = () => ({ ok: true, json: async () => ({}) }); // of fetch; replaced by tests

  /** `silent`: no listener is added, as in a page that does not look. */
  constructor({ silent = false, platform = {}, ...options } = {}) {
    const { sockets, streams, clock } = this;
    const made = {
      WebSocket: function (url) {
        sockets.push(new FakeSocket(url));
        return sockets.at(-1);
      },
      EventSource: function (url) {
        streams.push(new FakeStream(url));
        return streams.at(-1);
      },
      fetch: async (url, options) => {
        this.requests.push({ url: new URL(url), options });
        return this.answer(new URL(url), options);
      },
      setTimeout: clock.setTimeout,
      clearTimeout: clock.clearTimeout,
      now: clock.now,
      random: () => 1,
      console: { warn: (text) => this.warnings.push(text), error: (error) => this.errors.push(error) },
    };
    this.gateway = new Gateway({ url: GATEWAY, platform: { ...made, ...platform }, ...options });
    if (!silent) this.#listen();
  }

  #listen() {
    this.gateway.on("state", (event) => this.states.push(event));
    this.gateway.on("publication", (event) => this.publications.push(event));
    this.gateway.on("gap", (event) => this.gaps.push(event));
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get stream() {
    return this.streams.at(-1);
  }

  get data() {
    return this.publications.map(({ data }) => data);
  }

  async advance(ms) {
    await settled();
    await this.clock.advance(ms);
  }

  /** Answers connect with `result`, and each subscribe of the first frame at POSITION. */
  async connect(result = {}) {
    await settled();
    const { socket } = this;
    socket.open();
    await settled();
    socket.reply("connect", { client: "c1", ...result });
    for (const { id } of socket.sent("subscribe")) socket.receive({ id, subscribe: { recoverable: true, ...POSITION } });
    await settled();
  }

  /** Makes WebSocket fail until an event stream is opened in its place. */
  async fallBack() {
    await settled();
    while (!this.streams.length) {
      this.socket.end();
      await this.advance(this.states.at(-1).retryMs);
    }
  }

  /** What a promise is rejected with, or undefined. */
  static failure(promise) {
    return promise.then(() => undefined, (error) => error);
  }
}
