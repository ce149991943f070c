// A small model of the gateway for the random play: channels with their histories, and for each socket or stream of the page what it
// follows. Frames are read when serve() is called, and delivered when deliver() is, in order.

import assert from "node:assert/strict";

export const CHANNELS = ["a", "b", "ticket", "loose", "shut"]; // a ticket needs a token, a loose channel has no positions, one that is shut is refused
export const OWN = "own"; // the server subscribes the client to it
export const ADDED = "added"; // a backend subscribes the client to it now and then
export const BY_SERVER = [OWN, ADDED];
const HELD = 4; // publications of a history

class Channel {
  epoch = "e0";
  top = 0;
  first = 1; // the oldest offset that history holds

  constructor(name) {
    this.name = name;
    this.recovers = name !== "loose";
  }

  publish() {
    this.top += 1;
    this.first = Math.max(this.first, this.top - HELD + 1);
    return this.#publication(this.top);
  }

  #publication(offset) {
    const data = `${this.epoch}:${offset}`;
    return this.recovers ? { data, offset } : { data };
  }

  beginEpoch() {
    this.epoch = `e${Number(this.epoch.slice(1)) + 1}`;
    this.top = 0;
    this.first = 1;
  }

  /** The publications after a position, or null where history does not hold all of them. */
  after({ epoch, offset }) {
    if (epoch !== this.epoch || offset + 1 < this.first) return null;
    return Array.from({ length: this.top - offset }, (_, n) => this.#publication(offset + 1 + n));
  }
}

/** What the gateway holds of one WebSocket. `down` are the messages that the page has not received yet. */
class Link {
  down = [];
  connected = false;
  deaf = false; // the network lost it, and nobody was notified
  followed = new Set(); // names of channels
  #read = 0; // frames

  constructor(server, socket) {
    this.server = server;
    this.socket = socket;
  }

  /** Reads one frame of the page. */
  serve() {
    const frame = this.deaf ? undefined : this.socket.frames[this.#read];
    if (!frame) return;
    this.#read += 1;
    for (const { id, ...rest } of frame) {
      const [[method, request] = ["pong"]] = Object.entries(rest);
      if (!this.connected) assert.equal(method, "connect", "connect is the first command");
      this[method](id, request);
    }
  }

  #reply(id, method, result) {
    this.down.push({ id, [method]: result });
  }

  #refuse(id, error) {
    this.down.push({ id, error: { message: "", ...error } });
  }

  push(channel, push) {
    this.down.push({ push: { channel, ...push } });
  }

  pong() {}

  connect(id, { token, subs }) {
    assert.ok(!this.connected, "connect is sent once");
    this.connected = true;
    if (this.server.happens(0.1)) return this.#refuse(id, { code: 100, temporary: true });
    this.followed.add(OWN);
    const own = this.server.begin(OWN, subs[OWN]);
    this.#reply(id, "connect", { client: "c", ping: 25, pong: true, ttl: token ? 40 : 0, subs: { [OWN]: own } });
  }

  subscribe(id, { channel, token, ...since }) {
    if (channel === "shut") return this.#refuse(id, { code: 103 });
    if (channel === "ticket") assert.ok(token, "a ticket is asked for with its token");
    assert.ok(!this.followed.has(channel) || BY_SERVER.includes(channel), `${channel} is asked for while it is followed`);
    const fault = this.server.happens(0.1) && this.server.pick([100, 111, 113, token ? 109 : 100]);
    if (fault) return this.#refuse(id, { code: fault, temporary: fault !== 109 });
    this.followed.add(channel);
    this.#reply(id, "subscribe", { ...this.server.begin(channel, since.recover && since), ttl: token ? 30 : 0 });
  }

  unsubscribe(id, { channel }) {
    this.followed.delete(channel);
    this.#reply(id, "unsubscribe", {});
  }

  publish(id, { channel }) {
    this.#reply(id, "publish", {});
    this.server.publish(channel);
  }

  /** The page's, which is answered, or the server's. */
  ping(id) {
    if (id) this.#reply(id, "ping", {});
    else this.down.push({});
  }

  refresh(id) {
    this.#renewed(id, "refresh");
  }

  sub_refresh(id) {
    this.#renewed(id, "sub_refresh");
  }

  #renewed(id, method) {
    if (this.server.happens(0.2)) this.#refuse(id, { code: 109 });
    else this.#reply(id, method, { ttl: 30 });
  }

  /** Delivers some of what waits, in one frame. */
  deliver(most) {
    if (this.down.length && !this.deaf) this.socket.receive(...this.down.splice(0, most));
  }

  loseState(channel) {
    if (this.followed.delete(channel)) this.push(channel, { unsubscribe: { code: 2500, reason: "insufficient state" } });
  }

  /** Some networks do. */
  repeat() {
    const last = this.down.at(-1);
    if (last?.push?.pub?.offset) this.down.push(last);
  }

  /** A backend subscribes the client, or ends that. */
  add(channel) {
    if (!this.connected || this.followed.has(channel)) return;
    this.followed.add(channel);
    this.push(channel, { subscribe: this.server.begin(channel) });
  }

  remove(channel) {
    if (this.followed.delete(channel)) this.push(channel, { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  }

  open() {
    if (this.server.blocks) this.end(1006);
    else this.socket.open();
  }

  end(code) {
    this.socket.end(code);
  }
}

/** The same of an event stream. Its channels begin when it opens. */
class StreamLink {
  down = [];
  followed = new Set();
  deaf = false;

  constructor(server, stream) {
    this.server = server;
    this.stream = stream;
    const { searchParams } = stream.url;
    const positions = searchParams.get("last_event_id")?.split(",") ?? [];
    this.asked = stream.channels.map((channel, place) => [channel, positionIn(positions[place])]);
  }

  open() {
    if (this.server.happens(0.1)) return this.stream.refuse();
    if (this.asked.some(([channel]) => channel === "shut")) return this.down.push(["refused", { code: 103, message: "", channel: "shut" }]);
    const begun = this.asked.map(([channel, since]) => [channel, since, this.server.begin(channel, since)]);
    const channels = Object.fromEntries(begun.map(([channel, , { epoch = "", offset = 0, recovered = false }]) => [channel, { epoch, offset, recovered }]));
    const tops = Object.fromEntries(begun.map(([channel]) => [channel, this.server.channels.get(channel).top]));
    this.down.push(["connected", { channels, tops, ping: 25 }]);
    for (const [channel, since, { epoch, offset, recovered, publications = [] }] of begun) {
      this.followed.add(channel);
      if (since && !recovered) this.down.push(["gap", { channel, epoch, offset }]);
      for (const publication of publications) this.down.push(["message", { channel, ...publication }]);
    }
  }

  /** A token ends soon. */
  expire() {
    this.down.push(["expiring", {}]);
  }

  push(channel, { pub }) {
    if (pub) this.down.push(["message", { channel, ...pub }]);
  }

  deliver(most) {
    if (this.deaf) return;
    for (const [event, data] of this.down.splice(0, most)) this.stream.send(event, data);
  }

  /** A stream begins the channel anew by itself. */
  loseState(channel) {
    const { epoch, top, recovers } = this.server.channels.get(channel);
    if (this.followed.has(channel) && recovers) this.down.push(["gap", { channel, epoch, offset: top }]);
  }

  ping() {
    this.down.push(["ping", {}]);
  }

  end() {
    this.stream.end();
  }
}

function positionIn(mark = "-") {
  if (mark === "-") return null;
  const [epoch, offset] = mark.split(":");
  return { epoch, offset: Number(offset) };
}

export class Server {
  channels = new Map([...CHANNELS, ...BY_SERVER].map((name) => [name, new Channel(name)]));
  link; // the connection of the page, if there is one
  blocks; // WebSockets do not open
  well = false; // no faults any more

  constructor(random) {
    this.random = random;
    this.blocks = this.happens(0.3);
  }

  /** Meets what the page opened; there is one at a time. */
  meet(sockets, streams) {
    const open = [...sockets, ...streams].filter(({ isClosed }) => !isClosed);
    assert.ok(open.length <= 1, "there is one connection at a time");
    const [made] = open;
    if (made) made.link ??= made.frames ? new Link(this, made) : new StreamLink(this, made);
    this.link = made?.link;
  }

  happens(probability) {
    return !this.well && this.random() < probability;
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  publish(name, count = 1) {
    for (; count; count--) {
      const publication = this.channels.get(name).publish();
      if (this.link?.followed.has(name)) this.link.push(name, { pub: publication });
    }
  }

  /** The result of a subscribe. */
  begin(name, since) {
    const channel = this.channels.get(name);
    const { epoch, top: offset } = channel;
    if (!channel.recovers) return since ? { was_recovering: true } : {};
    const missed = since && channel.after({ epoch: since.epoch ?? "", offset: since.offset ?? 0 });
    if (missed) return { recoverable: true, was_recovering: true, recovered: true, epoch, offset: since.offset, publications: missed };
    return { recoverable: true, epoch, offset, ...(since && { was_recovering: true }) };
  }

  beginEpoch(name) {
    this.channels.get(name).beginEpoch();
    this.link?.loseState(name);
  }
}
