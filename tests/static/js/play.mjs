// A random play: one gateway.js against a small model of the gateway, with whatever the network, the clock and the page do between them.
//
//   await play(seed)        throws an AssertionError with the seed and what happened last, where a rule is broken
//
// The rules that hold at each moment:
//
//   - a subscription receives each publication once and in order; where one is missing, a gap was announced before the next
//   - the gateway emits what its subscriptions emit
//   - a state follows only one from which it can be reached, and nothing follows "closed"
//   - there is one connection at a time; connect is its first command; no channel is asked for while it is followed
//
// And in the end, once all faults are over: each channel that the page follows is live at its newest publication, the gateway sends no
// other channel, and every promise is settled. After close() no timer, connection or event is left.

import assert from "node:assert/strict";

import { Page, jwt, settled } from "./kit.mjs";
import { ADDED, BY_SERVER, CHANNELS, Server } from "./model.mjs";

const ACTS = 120;
const HEAL_MS = 120_000; // a few of the longest backoffs, and the silence after which a dead connection is replaced
const STEP_MS = 4000; // less than the time that a connection has to open

const NEXT_STATES = {
  gateway: {
    closed: ["connecting", "closed"],
    connecting: ["connecting", "connected", "waiting", "refused", "closed"],
    connected: ["connecting", "waiting", "refused", "closed"],
    waiting: ["connecting", "closed"],
    refused: ["connecting", "closed"],
  },
  subscription: {
    waiting: ["catching up", "live", "refused", "closed"],
    "catching up": ["live", "waiting", "refused", "closed"],
    live: ["catching up", "waiting", "refused", "closed"],
    refused: ["waiting", "catching up", "live", "closed"],
    closed: [],
  },
};

/** Random numbers that are the same for the same seed (mulberry32). */
function randomFrom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Checks what one subscription emits, from its beginning to its end. */
class Witness {
  at; // the position up to which all is received, or announced as gone
  emitted = { publication: 0, gap: 0 };
  #play;
  #subscription;
  #state;
  #seen = new Set();

  constructor(play, subscription) {
    this.#play = play;
    this.#subscription = subscription;
    this.#state = subscription.state;
    this.#moveTo(subscription.position);
    subscription.on("publication", (event) => this.#received(event)).on("gap", (event) => this.#gap(event));
    subscription.on("state", ({ state }) => this.#changed(state));
  }

  get channel() {
    return this.#subscription.channel;
  }

  #moveTo(position) {
    this.at = position && { ...position };
  }

  #received({ data, offset }) {
    this.#play.note(`${this.channel} received ${data}`);
    this.emitted.publication += 1;
    assert.notEqual(this.#state, "closed");
    assert.ok(!this.#seen.has(data), `${data} of ${this.channel} comes twice`);
    this.#seen.add(data);
    if (offset) {
      this.at ??= { ...this.#subscription.position, offset: offset - 1 };
      assert.equal(data, `${this.at.epoch}:${this.at.offset + 1}`, `${data} of ${this.channel} follows ${this.at.epoch}:${this.at.offset}`);
      this.at.offset = offset;
    }
    this.#play.maybeAct(this.channel);
  }

  #gap({ epoch, offset }) {
    this.#play.note(`${this.channel} has a gap up to ${epoch}:${offset}`);
    this.emitted.gap += 1;
    assert.ok(epoch !== this.at?.epoch || offset >= this.at.offset, `the gap of ${this.channel} goes back`);
    this.#moveTo({ epoch, offset });
    this.#play.maybeAct(this.channel);
  }

  #changed(state) {
    this.#play.note(`${this.channel} is ${state}`);
    assert.ok(NEXT_STATES.subscription[this.#state].includes(state), `${this.channel} was ${this.#state}, and is ${state}`);
    this.#state = state;
    if (state === "live" && !this.at) this.#moveTo(this.#subscription.position);
    this.#play.maybeAct(this.channel);
  }
}

class Play {
  log = [];
  #random;
  #server;
  #page;
  #wake;
  #state = "closed"; // of the gateway
  #handles = []; // a subscription for each subscribe() that was not taken back
  #witnesses = new Map(); // subscription → Witness
  #emitted = { publication: 0, gap: 0 }; // by the gateway, of channels that the page follows
  #seen = new Set(); // publications of channels to which the server subscribed: they have no witness at first
  #unsettled = 0; // promises of calls
  #tokens = []; // what settles the promises of the page's token functions
  #inListener = false;

  constructor(seed) {
    this.#random = randomFrom(seed);
    this.#server = new Server(this.#random);
    const token = this.#server.pick([undefined, jwt("me"), () => this.#token("me")]);
    globalThis.addEventListener = (event, act) => event === "online" && (this.#wake = act);
    this.#page = new Page({ silent: true, token, platform: { random: this.#random } });
    delete globalThis.addEventListener;
    this.#page.answer = ({ pathname }) => ({ ok: pathname === "/health/ready", json: async () => this.#server.pick([{}, { code: 106 }]) });
    const { gateway } = this.#page;
    gateway.on("state", ({ state }) => this.#changed(state));
    for (const event of ["publication", "gap"]) gateway.on(event, (detail) => this.#count(event, detail));
  }

  get #gateway() {
    return this.#page.gateway;
  }

  get #link() {
    return this.#server.link;
  }

  note(text) {
    this.log.push(text);
  }

  async run() {
    await this.#rest();
    for (let channels = 0; channels < 3; channels++) this.#subscribe();
    await this.#passTime(3 * STEP_MS);
    for (let acts = 0; acts < ACTS; acts++) await this.#act();
    await this.#heal();
    this.#checkTheEnd();
    await this.#close();
  }

  // What the page does, at any time and in its listeners.

  /** `channel` is the one that a listener was notified about. */
  #actAsPage(channel) {
    const isDown = this.#state === "closed" || this.#state === "refused";
    return this.#oneOf([
      [6, () => this.#subscribe(this.#server.happens(0.5) ? channel : undefined)],
      [3, () => this.#unsubscribe()],
      [2, () => this.#publish()],
      [0.7, () => this.#gateway.disconnect()],
      [isDown ? 30 : 2, () => this.#gateway.connect()],
    ]);
  }

  maybeAct(channel) {
    if (this.#inListener || !this.#server.happens(0.1)) return;
    this.#inListener = true;
    this.note("… in this listener:");
    this.#actAsPage(channel);
    this.#inListener = false;
  }

  #subscribe(channel = this.#server.pick([...CHANNELS, ...BY_SERVER])) {
    this.note(`subscribe ${channel}`);
    const subscription = this.#gateway.subscribe(channel, { token: channel === "ticket" ? () => this.#token(channel) : undefined });
    this.#handles.push(subscription);
    if (!this.#witnesses.has(subscription)) this.#witnesses.set(subscription, new Witness(this, subscription));
  }

  #unsubscribe() {
    if (!this.#handles.length) return;
    const [subscription] = this.#handles.splice(Math.floor(this.#random() * this.#handles.length), 1);
    this.note(`unsubscribe ${subscription.channel}`);
    subscription.unsubscribe();
  }

  #publish() {
    const settle = () => (this.#unsettled -= 1);
    this.#unsettled += 1;
    this.#gateway.publish(this.#server.pick(["a", "b"]), 1).then(settle, settle);
  }

  /** A token, at once or later, or a failure. */
  #token(name) {
    if (this.#server.well) return jwt(name);
    return new Promise((resolve, reject) => {
      const settle = () => (this.#server.happens(0.3) ? reject(new Error("no net")) : resolve(jwt(name)));
      if (this.#server.happens(0.5)) settle();
      else this.#tokens.push(settle);
    });
  }

  // What it is notified of.

  #changed(state) {
    this.note(`the gateway is ${state}`);
    assert.ok(NEXT_STATES.gateway[this.#state].includes(state), `the gateway was ${this.#state}, and is ${state}`);
    this.#state = state;
    this.maybeAct();
  }

  #count(event, { channel, data }) {
    if (!BY_SERVER.includes(channel)) this.#emitted[event] += 1;
    else if (event === "publication") {
      assert.ok(!this.#seen.has(`${channel} ${data}`), `${data} of ${channel} comes twice`);
      this.#seen.add(`${channel} ${data}`);
    }
  }

  // What the network, the gateway and the clock do.

  /** One of [weight, act]: the greater the weight, the more likely the act. */
  #oneOf(acts) {
    let left = this.#random() * acts.reduce((sum, [weight]) => sum + weight, 0);
    return acts.find(([weight]) => (left -= weight) < 0)[1]();
  }

  async #act() {
    const [server, clock] = [this.#server, this.#page.clock];
    const channel = server.pick([...CHANNELS, ...BY_SERVER]);
    await this.#oneOf([
      [14, () => this.#open()],
      [30, () => this.#link?.serve?.()],
      [30, () => this.#link?.deliver(server.pick([1, 2, 6]))],
      [20, () => server.publish(channel, server.pick([1, 2, 3]))],
      [8, () => this.#actAsPage()],
      [1, () => this.#wake()],
      [1, () => this.#lose(server.pick([1006, 3001, 3005, 3008, 3012, 3500, 3501]))],
      [0.3, () => this.#link && (this.#link.deaf = true)],
      [0.3, () => (server.blocks = !server.blocks)],
      [2, () => this.#link?.loseState(channel)],
      [1, () => server.beginEpoch(channel)],
      [2, () => this.#link?.repeat?.()],
      [2, () => this.#link?.add?.(ADDED)],
      [1, () => this.#link?.remove?.(ADDED)],
      [1, () => this.#link?.expire?.()],
      [5, () => this.#tokens.shift()?.()],
      [6, () => clock.advance(server.pick([10, 100, 700, 3000]))],
      [0.7, () => clock.advance(server.pick([11_000, 40_000]))],
    ]);
    await this.#rest();
  }

  #open() {
    if (!this.#link || this.#link.isAnswered) return;
    this.note(`open ${this.#link.constructor.name}`);
    this.#link.isAnswered = true;
    this.#link.open();
  }

  #lose(code) {
    this.note(`lose ${code}`);
    this.#link?.end(code);
  }

  /** What was thrown in a listener is thrown here. */
  async #rest() {
    await settled();
    this.#server.meet(this.#page.sockets, this.#page.streams);
    for (const error of this.#page.errors) throw error;
  }

  /** What is on its way arrives, and is answered, before time goes on. */
  async #passTime(ms) {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      await this.#exchange();
      await this.#page.clock.advance(STEP_MS);
      this.#link?.ping();
    }
  }

  async #exchange() {
    for (let turns = 0; turns < 3; turns++) {
      await this.#rest();
      this.#open();
      this.#link?.serve?.();
      this.#link?.deliver(1000);
    }
    await this.#rest();
  }

  // The end.

  async #heal() {
    this.note("all is well");
    this.#server.well = true;
    this.#server.blocks &&= this.#handles.some(({ channel }) => channel !== "shut"); // without a channel there is no stream to open
    for (const settle of this.#tokens.splice(0)) settle();
    if (this.#state === "closed" || this.#state === "refused") this.#gateway.connect();
    await this.#passTime(HEAL_MS);
    for (const channel of this.#server.channels.keys()) this.#server.publish(channel);
    await this.#exchange();
  }

  #checkTheEnd() {
    assert.equal(this.#gateway.state, "connected");
    for (const subscription of this.#handles) this.#checkOne(subscription);
    const wanted = new Set([...this.#handles.map(({ channel }) => channel), ...BY_SERVER]);
    for (const channel of this.#link.followed) assert.ok(wanted.has(channel), `${channel} is sent, and nobody follows it`);
    const witnesses = [...this.#witnesses.values()].filter(({ channel }) => !BY_SERVER.includes(channel));
    for (const [event, count] of Object.entries(this.#emitted)) {
      assert.equal(witnesses.reduce((sum, { emitted }) => sum + emitted[event], 0), count, `the gateway emits each ${event} of its subscriptions`);
    }
    assert.equal(this.#unsettled, 0, "a promise is not settled");
  }

  #checkOne(subscription) {
    const { channel, state, position } = subscription;
    if (BY_SERVER.includes(channel) && !this.#link.followed.has(channel)) return; // a backend ended it
    assert.equal(state, channel === "shut" ? "refused" : "live", `${channel} is ${state}`);
    const { epoch, top, recovers } = this.#server.channels.get(channel);
    if (state !== "live" || !recovers) return;
    assert.deepEqual([position, this.#witnesses.get(subscription).at], Array(2).fill({ epoch, offset: top }), `${channel} lacks something`);
  }

  async #close() {
    this.#gateway.close();
    const { length } = this.log;
    await this.#page.clock.advance(60_000);
    await this.#rest();
    assert.equal(this.#page.clock.waiting, 0, "a timer is left");
    assert.equal(this.#link, undefined, "a connection is left");
    assert.deepEqual(this.log.slice(length), [], "an event after close()");
  }
}

export async function play(seed) {
  const playing = new Play(seed);
  try {
    await playing.run();
  } catch (error) {
    error.message = `seed ${seed}: ${error.message}\n  ${playing.log.slice(-25).join("\n  ")}`;
    throw error;
  }
}
