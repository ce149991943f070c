/**
 * The browser client of the gateway: one ES module, nothing to build, nothing else to load.
 *
 *     import { Gateway } from "/static/gateway.js";
 *     const gateway = new Gateway({ token });
 *     gateway.subscribe("posts:tech").on("publication", ({ data }) => show(data));
 *
 * It speaks the Centrifuge protocol over WebSocket. When the line is lost it comes back by itself, and each channel goes
 * on behind its position: what was missed arrives once, in order, marked `recovered`, before anything live. What history
 * does not hold any more is told by a `gap`. Where WebSocket does not get through, server-sent events carry the same
 * publications; they only receive, so whatever needs an answer is rejected there with code "sse".
 *
 * new Gateway({ url, token, timeoutMs, backoffMs, longestBackoffMs, silenceMs })
 *   url               of the gateway; absent: where this module came from
 *   token             a string, or a function that returns one, or a promise of one, and is called again before it expires;
 *                     where it returned one once and returns none then, it is asked on: nobody becomes anonymous that way
 *   timeoutMs         5000: for a line to open, for a command to be answered
 *   backoffMs         500: a reconnect waits a random time of up to this, doubled each time, up to …
 *   longestBackoffMs  20000
 *   silenceMs         10000: a line that is silent for so long after a ping was due is dropped
 *
 * gateway.subscribe(channel, { since, token, joinLeave })  → Subscription
 *   since             { epoch, offset }: goes on behind that position
 *   token             a subscription token, for channels that ask for one: as above; its function is called with { channel }
 *   joinLeave         true: tells who comes and goes, where the channel's rules have it so
 * gateway.unsubscribe(channel)
 * gateway.publish(channel, data)         → promise, fulfilled once the publication is in the channel
 * gateway.history(channel, { limit, since, reverse })  → promise of { publications, epoch, offset }; at most 300
 * gateway.rpc(method, data)              → promise of the method's data
 * gateway.inbox.list({ limit, before })  → promise of { notifications: [{ id, offset, ms, unread, data }], unread, next, … },
 *                                        newest first; next is the `before` of the following page, null behind the last
 * gateway.inbox.read({ ids } | { upto } | { ids, upto } | { all: true })   marks as read, on all the user's devices
 *                                        (both over plain HTTP where only event streams get through)
 * gateway.inbox.unread                   how many are not read; null while that is not known
 * gateway.disconnect()                   cuts the line; positions are kept
 * gateway.connect()                      at once, out of any state; a new gateway connects by itself
 * gateway.close()                        for good
 * gateway.state, gateway.transport       as in the event "state"
 * Subscription: channel, state, position ({ epoch, offset } or null), publish(data), history(options), unsubscribe()
 *   presence()        → promise of who is there: [{ user, client, conn_info, chan_info }, …]
 *   presenceStats()   → promise of how many: { clients, users }
 *
 * Events, by on(event, handler) and off(event, handler), which return their object:
 *   "publication"  { channel, data, offset, tags, info, recovered }: recovered is true for one that was missed and caught
 *                  up; an ephemeral one has no offset; info ({ user, client, conn_info }) if a client published it
 *   "gap"          { channel, epoch, offset }: what lay between the last publication and this position is gone
 *   "join", "leave"             { channel, info }: info ({ user, client, conn_info, chan_info }) came or went, this client too
 *   "unread" of the gateway     { unread, read, upto }: the inbox's count, when it is known and whenever it changes; read (ids)
 *                  or upto (an offset) say what was marked as read, here or on another device
 *   "state" of a subscription   { channel, state, code, reason }, state: "waiting" for the line, "catching up", "live",
 *                  "refused" (code and reason say why; only a new subscribe() or connect() tries again), "closed";
 *                  "live" has the code "sse" and a reason where joinLeave was asked for and there are no joins and leaves
 *   "state" of the gateway      { state, transport, code, reason, retryMs }, transport: "websocket" or "sse", state:
 *                  "connecting", "connected", "waiting" (for the next attempt, in retryMs), "refused" (for good), "closed"
 * The gateway has all but "state" of its subscriptions too, also of the user's own channels, which nobody has to ask for.
 *
 * Errors are GatewayErrors with a message for people and a code: the server's number (103 permission denied, 109 token
 * expired, 3500 invalid token …), or a word: "timeout", "lost" (with the line: whether it happened is not known),
 * "closed" (by disconnect), "sse" (see above), "token" (its function failed).
 */

const NAME = "gateway.js";
const BLOCKED_AFTER = 2; // WebSockets in a row that did not open although the gateway answers HTTP
const STEADY_MS = 5000; // a line that held for so long starts the backoff anew
const QUIET_STREAM_MS = 35_000; // a stream's comments (each 25 s) are not shown to us: after this, waking reopens it
const RENEW_MS = 10_000; // before a token expires
const LONGEST_TIMER_MS = 2 ** 31 - 1; // past this, setTimeout fires at once

export class GatewayError extends Error {
  name = "GatewayError";

  constructor(code, message, temporary = false) {
    super(message);
    this.code = code;
    this.temporary = temporary;
  }
}

const isFinal = (closeCode) => (closeCode >= 3500 && closeCode < 4000) || (closeCode >= 4500 && closeCode < 5000);

/** Whether trying again may help. 105: an unsubscribe is still under way; 109: if there is another token. */
function mayPass({ code, temporary }, token) {
  if (code === 109 && token) return token.drop();
  if (typeof code === "string" || code >= 3000) return !isFinal(code);
  return temporary || code < 100 || [100, 105, 109, 111, 113].includes(code);
}

/** A token as the page gives it: a string, or a function that is called for another one once the last was dropped. */
class Token {
  held; // "" where there is none; undefined until its function said so
  #function;
  #about;
  #given = false; // its function gave one once
  #timer;

  constructor(given, about) {
    if (typeof given === "function") this.#function = given;
    else this.held = given ?? "";
    this.#about = about;
  }

  get ready() {
    return this.held !== undefined;
  }

  async get() {
    if (this.#function && !this.held) {
      const token = (await this.#function(this.#about)) ?? "";
      if (!token && this.#given) throw new Error("its function gives none any more"); // who had one is not anonymous without it
      this.#given ||= Boolean(token);
      this.held = token;
    }
    return this.held || undefined;
  }

  /** What is held is no good any more. Returns whether another one can be had. */
  drop() {
    if (this.#function) this.held = undefined;
    return Boolean(this.#function);
  }

  /** Hands `use` another one in time before this one expires, in ttl seconds. */
  renew(ttl, use) {
    this.rest();
    if (!ttl || !this.#function) return;
    const delayMs = Math.min(Math.max(ttl * 1000 - RENEW_MS, ttl * 500), LONGEST_TIMER_MS);
    const timer = (this.#timer = setTimeout(async () => {
      this.drop();
      const token = await this.get().catch(() => undefined);
      if (timer !== this.#timer) return;
      // Failing does no harm yet: the server waits 25 s beyond the expiry, and then makes us come back with a new one.
      if (token) use(token);
      else this.renew(RENEW_MS / 1000, use);
    }, delayMs));
  }

  rest() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/** What a line sends. Its text is made here, where data that is no JSON fails for whoever brought it. */
function command(method, request, done = () => {}, failed = () => {}) {
  return { method, text: JSON.stringify(request), done, failed };
}

class Emitter {
  #handlers;

  constructor(...events) {
    this.#handlers = Object.fromEntries(events.map((event) => [event, new Set()]));
  }

  on(event, handler) {
    if (!this.#handlers[event]) throw new TypeError(`there is no event "${event}"; there are ${Object.keys(this.#handlers).join(", ")}`);
    this.#handlers[event].add(handler);
    return this;
  }

  off(event, handler) {
    this.#handlers[event]?.delete(handler);
    return this;
  }

  /** A handler that throws harms neither the other handlers nor the line. */
  _emit(event, detail) {
    for (const handler of [...this.#handlers[event]]) {
      try {
        handler(detail);
      } catch (error) {
        reportError(error);
      }
    }
  }
}

/** One channel, followed. Names with an underscore belong to the gateway. */
class Subscription extends Emitter {
  state = "waiting";
  position = null;
  _own = false; // the server subscribed us to it
  _failures = 0;
  _token;
  _joinLeave;
  #begun = false; // on this line: whatever comes before the reply to subscribe is in that reply, or lies before it
  #gateway;
  #timer;
  #top = 0; // up to here publications are caught up, behind it live

  constructor(gateway, channel, { since, token, joinLeave } = {}) {
    super("publication", "gap", "join", "leave", "state");
    this.#gateway = gateway;
    this.channel = channel;
    this._token = new Token(token, { channel });
    this._joinLeave = joinLeave;
    if (since) this.position = { epoch: since.epoch, offset: since.offset };
  }

  publish(data) {
    return this.#gateway.publish(this.channel, data);
  }

  history(options) {
    return this.#gateway.history(this.channel, options);
  }

  async presence() {
    return Object.values((await this.#gateway._call("presence", { channel: this.channel })).presence);
  }

  async presenceStats() {
    const { num_clients: clients, num_users: users } = await this.#gateway._call("presence_stats", { channel: this.channel });
    return { clients, users };
  }

  unsubscribe() {
    if (this.state !== "closed") this.#gateway.unsubscribe(this.channel);
  }

  get _recovery() {
    return this.position ? { recover: true, ...this.position } : {};
  }

  _set(state, code, reason) {
    this.#begun &&= state === "catching up" || state === "live";
    clearTimeout(this.#timer);
    if (!this.#begun) this._token.rest();
    if (state === "refused") this._token.drop(); // another one may do
    if (state === this.state) return;
    this.state = state;
    this._emit("state", { channel: this.channel, state, code, reason });
  }

  _later(delayMs, act) {
    this.#timer = setTimeout(act, delayMs);
  }

  /** The server's reply to subscribe. `top` is where catching up ends, if that is not with these publications. */
  _begin({ recovered, was_recovering, recoverable, epoch = "", offset = 0, publications = [], top }) {
    this.#begun = true;
    this._failures = 0;
    if (this.channel.startsWith(INBOX)) this.#gateway.inbox._ask();
    this.#top = recovered ? (top ?? publications.at(-1)?.offset ?? 0) : 0;
    if (recovered) this.position.epoch = epoch;
    else if (was_recovering) this._skip(epoch, offset);
    else this.position = recoverable ? { epoch, offset } : null;
    for (const publication of publications) this._take(publication);
    this.#level();
  }

  _take({ data, offset, tags, info }) {
    if (!this.#begun) return;
    if (!offset && data?.inbox && this.channel.startsWith(INBOX)) return this.#gateway.inbox._take(data.inbox);
    if (offset && this.position) {
      if (offset <= this.position.offset) return;
      this.position.offset = offset;
    }
    const recovered = Boolean(offset) && offset <= this.#top;
    this._emit("publication", { channel: this.channel, data, offset, tags, info, recovered });
    this.#level();
  }

  _skip(epoch, offset) {
    this.position = { epoch, offset };
    this._emit("gap", { channel: this.channel, epoch, offset });
    this.#level();
  }

  #level() {
    if (!this.#begun) return;
    if ((this.position?.offset ?? 0) < this.#top) this._set("catching up");
    else if (this._joinLeave && this.#gateway.transport === "sse") this._set("live", "sse", onlyReceives("joinLeave"));
    else this._set("live");
  }

  _emit(event, detail) {
    super._emit(event, detail);
    if (event !== "state") this.#gateway._emit(event, detail);
  }
}

const INBOX = "notifications:";
const ASK_AGAIN_MS = 1000;

/**
 * The user's inbox: what is unread is counted by the gateway, which announces each change. A state carries the number of
 * its change, so that an answer that was overtaken by an announcement does not bring back an older count.
 */
class Inbox {
  unread = null;
  #gateway;
  #epoch;
  #change = -1;
  #again;

  constructor(gateway) {
    this.#gateway = gateway;
  }

  async list({ limit = 20, before } = {}) {
    const query = before ? `?limit=${limit}&before=${encodeURIComponent(before)}` : `?limit=${limit}`;
    const listed = await this.#call("inbox.list", { limit, before }, `inbox${query}`);
    this._take(listed);
    return listed;
  }

  async read({ ids, upto, all } = {}) {
    const marks = { ids, upto, all };
    this._take(await this.#call("inbox.read", marks, "inbox/read", { method: "POST", body: JSON.stringify(marks) }));
  }

  /** An event stream only receives: there, the inbox is asked over plain HTTP. */
  #call(method, request, path, options) {
    return this.#gateway.transport === "sse" ? this.#gateway._fetch(path, options) : this.#gateway.rpc(method, request);
  }

  _take({ unread, change, epoch, read, upto }) {
    if (epoch === this.#epoch && change <= this.#change) return;
    this.#epoch = epoch;
    this.#change = change;
    this.unread = unread;
    this.#gateway._emit("unread", { unread, read, upto });
  }

  /** The subscription began: announcements may have been missed before it. */
  _ask() {
    clearTimeout(this.#again);
    this.list({ limit: 0 }).catch((error) => {
      // The line's end brings us back here by itself.
      if (mayPass(error) && this.#gateway.state === "connected") this.#again = setTimeout(() => this._ask(), ASK_AGAIN_MS);
    });
  }
}

/** What the two kinds of line share: each ends once, and tells the gateway why. */
class Line {
  ended = false;
  heard = Date.now();

  constructor(timeoutMs, events) {
    this.timeoutMs = timeoutMs;
    this.events = events;
    this.timer = setTimeout(() => this.end("timeout", "the line did not open in time"), timeoutMs);
  }

  end(code, reason) {
    if (this.ended) return;
    this.ended = true;
    clearTimeout(this.timer);
    this.hangUp();
    this.events.lost(code, reason);
  }
}

class SocketLine extends Line {
  transport = "websocket";
  opened = false;
  #asked = new Map(); // id → { method, done, failed, timer }
  #lastId = 0;
  #pong = false;
  #silentMs = Infinity;

  constructor(socket, timeoutMs, events) {
    super(timeoutMs, events);
    this.socket = socket;
    socket.onopen = () => {
      clearTimeout(this.timer);
      this.opened = true;
      events.opened();
    };
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) => this.end(code, reason || "the connection broke off");
  }

  /** Sends commands in one frame. `done` and `failed` are called while the reply's frame is read, before any push behind it. */
  ask(commands) {
    const texts = commands.map(({ method, text, done, failed }) => {
      const id = ++this.#lastId;
      const late = () => this.#answer(id)?.failed(new GatewayError("timeout", `${method} was not answered in time`));
      this.#asked.set(id, { method, done, failed, timer: setTimeout(late, this.timeoutMs) });
      return `{"id":${id},"${method}":${text}}`;
    });
    if (texts.length) this.socket.send(texts.join("\n"));
  }

  #answer(id) {
    const asked = this.#asked.get(id);
    this.#asked.delete(id);
    clearTimeout(asked?.timer);
    return asked;
  }

  #hear(frame) {
    this.heard = Date.now();
    for (const text of frame.split("\n")) {
      if (this.ended) return;
      if (text !== "{}") this.#understand(JSON.parse(text));
      else if (this.#pong) this.socket.send("{}");
    }
  }

  #understand({ id, push, error, ...reply }) {
    if (push) return this.events.pushed(push);
    const asked = this.#answer(id);
    if (error) asked?.failed(new GatewayError(error.code, error.message, error.temporary));
    else asked?.done(reply[asked.method] ?? {});
  }

  /** The server announced its pings: from now on silence means that the line is dead, or that we slept. */
  expectPings(pingMs, pong, silenceMs) {
    this.#pong = pong;
    if (pingMs) this.#silentMs = pingMs + silenceMs;
    if (pingMs) this.#watch();
  }

  #watch() {
    const leftMs = this.heard + this.#silentMs - Date.now();
    if (leftMs <= 0) this.end("timeout", "nothing was heard from the gateway");
    else this.timer = setTimeout(() => this.#watch(), leftMs);
  }

  /** The page woke up, or the network came back: is anybody there? */
  check() {
    clearTimeout(this.timer);
    if (this.#silentMs < Infinity) this.#watch();
    if (this.ended) return;
    const gone = ({ code }) => code === "timeout" && this.end("timeout", "the gateway did not answer");
    this.ask([command("ping", {}, () => {}, gone)]);
  }

  hangUp() {
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    const lost = new GatewayError("lost", "the line was lost before the answer came; whether it happened is not known");
    for (const id of [...this.#asked.keys()]) this.#answer(id).failed(lost);
  }
}

const onlyReceives = (what) => `${what} needs WebSocket, which does not get through here; server-sent events only receive`;

/** Server-sent events. Reconnecting is ours, not EventSource's: one kind of backoff, and a chance for WebSocket each time. */
class StreamLine extends Line {
  transport = "sse";

  constructor(source, timeoutMs, events) {
    super(timeoutMs, events);
    this.source = source;
    const hear = (event, act) =>
      source.addEventListener(event, ({ data }) => {
        this.heard = Date.now();
        if (!this.ended) act(JSON.parse(data));
      });
    hear("connected", ({ channels, tops }) => {
      clearTimeout(this.timer);
      events.opened(channels, tops);
    });
    hear("gap", (gap) => events.pushed({ channel: gap.channel, gap }));
    hear("message", (pub) => events.pushed({ channel: pub.channel, pub }));
    hear("expiring", ({ channel }) => events.expiring(channel));
    hear("refused", ({ code, message, channel }) => events.refused(new GatewayError(code, message), channel));
    source.onerror = () => this.end("lost", "the event stream broke off");
  }

  ask(commands) {
    for (const { method, failed } of commands) {
      failed(new GatewayError("sse", onlyReceives(method)));
    }
  }

  check() {
    if (Date.now() - this.heard >= QUIET_STREAM_MS) this.end("timeout", "nothing was heard from the gateway");
  }

  hangUp() {
    this.source.close();
  }
}

export class Gateway extends Emitter {
  state = "closed";
  #base;
  #options;
  #token;
  #subscriptions = new Map();
  #unsent = []; // commands that wait for a line
  #line = null;
  #attempt = {}; // a new one each time: whatever an earlier attempt still brings is not ours. Null: none is wanted
  #failures = 0;
  #blocked = 0;
  #steadyFrom = Infinity;
  #timer;
  inbox = new Inbox(this);

  constructor({ url, token, timeoutMs = 5000, backoffMs = 500, longestBackoffMs = 20_000, silenceMs = 10_000 } = {}) {
    super("publication", "gap", "join", "leave", "state", "unread");
    this.#base = url ? new URL(url, globalThis.location?.href) : new URL("..", import.meta.url);
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#token = new Token(token);
    this.#options = { timeoutMs, backoffMs, longestBackoffMs, silenceMs };
    this.#listen("addEventListener");
    const first = this.#attempt;
    queueMicrotask(() => first === this.#attempt && this.connect()); // behind the page's own first subscribes
  }

  #listen(method) {
    for (const event of ["online", "pageshow"]) globalThis[method](event, this.#wake);
    globalThis.document?.[method]("visibilitychange", this.#wake);
  }

  get transport() {
    return this.#line?.transport;
  }

  subscribe(channel, options = {}) {
    const known = this.#subscriptions.get(channel);
    if (known && known.state !== "refused") return known;
    const subscription = known ?? new Subscription(this, channel, options);
    if (known && options.token) known._token = new Token(options.token, { channel });
    this.#subscriptions.set(channel, subscription);
    subscription._set("waiting");
    if (this.state === "connected") this.#follow(subscription);
    return subscription;
  }

  unsubscribe(channel) {
    const subscription = this.#subscriptions.get(channel);
    const followed = subscription?.state === "catching up" || subscription?.state === "live";
    this.#subscriptions.delete(channel);
    subscription?._set("closed");
    if (this.transport === "sse") this.#reopen();
    else if (followed) this.#line.ask([command("unsubscribe", { channel })]);
  }

  async publish(channel, data) {
    await this._call("publish", { channel, data });
  }

  history(channel, { limit = 100, since, reverse = false } = {}) {
    return this._call("history", { channel, limit, since, reverse });
  }

  async rpc(method, data) {
    return (await this._call("rpc", { method, data })).data;
  }

  /** The token goes into the query, as an event stream's does: a header would need a preflight where the page is of another origin. */
  async _fetch(path, options) {
    const url = new URL(path, this.#base);
    const token = await this.#token.get();
    if (token) url.searchParams.set("token", token);
    const signal = AbortSignal.timeout(this.#options.timeoutMs);
    const answer = await fetch(url, { ...options, cache: "no-store", signal })
      .then((response) => response.json())
      .catch((error) => {
        throw new GatewayError("lost", `the gateway did not answer: ${error.message}`);
      });
    if (answer.error?.code === 109) this.#token.drop();
    if (answer.error) throw new GatewayError(answer.error.code, answer.error.message);
    return answer;
  }

  connect() {
    if (this.state === "connecting" || this.state === "connected") return;
    if (this.state === "refused") this.#token.drop(); // another one may do
    this.#failures = 0;
    for (const subscription of this.#subscriptions.values()) subscription._set("waiting");
    this.#open();
  }

  disconnect() {
    this.#stop("closed", "closed", "the line is cut; nothing was sent");
  }

  close() {
    this.#listen("removeEventListener");
    this.disconnect();
    for (const channel of [...this.#subscriptions.keys()]) this.unsubscribe(channel);
  }

  _call(method, request) {
    return new Promise((done, failed) => {
      const asked = command(method, request, done, failed);
      if (this.state === "connected") return this.#line.ask([asked]);
      if (!this.#attempt) return failed(this.#stopped);
      this.#unsent.push(asked);
      setTimeout(() => {
        if (!this.#unsent.includes(asked)) return;
        this.#unsent.splice(this.#unsent.indexOf(asked), 1);
        failed(new GatewayError("timeout", "there is no line to the gateway; nothing was sent"));
      }, this.#options.timeoutMs);
    });
  }

  // The life of a line: open → greet → up → lost → retry → open. Only stop ends it.

  #stopped;

  async #open() {
    clearTimeout(this.#timer);
    this.#hangUp();
    const attempt = (this.#attempt = {});
    const sse = this.#blocked >= BLOCKED_AFTER && this.#wanted.length > 0;
    this.#set("connecting", { transport: sse ? "sse" : "websocket" });
    try {
      const token = await this.#token.get();
      await Promise.allSettled(this.#wanted.map(({ _token }) => _token.get())); // a channel whose token failed comes later
      if (attempt !== this.#attempt) return;
      const line = sse
        ? new StreamLine(new EventSource(this.#streamUrl(token)), this.#options.timeoutMs, {
            opened: (channels, tops) => this.#streaming(channels, tops),
            pushed: (push) => this.#pushed(push),
            expiring: (channel) => this.#renewStream(channel),
            refused: (error, channel) => this.#streamRefused(error, channel),
            lost: (code, reason) => this.#lost(line, code, reason),
          })
        : new SocketLine(new WebSocket(this.#socketUrl), this.#options.timeoutMs, {
            opened: () => this.#greet(token),
            pushed: (push) => this.#pushed(push),
            lost: (code, reason) => this.#lost(line, code, reason),
          });
      this.#line = line;
    } catch (error) {
      if (attempt === this.#attempt) this.#retry("token", `there is no token, or no address: ${error.message}`);
    }
  }

  get #socketUrl() {
    const url = new URL("connection/websocket", this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    return url;
  }

  #streamUrl(token) {
    const url = new URL("sse", this.#base);
    const ready = this.#wanted.filter(({ _token }) => _token.ready);
    if (!ready.length) throw new Error("no channel's token came");
    const positions = ready.map(({ position }) => (position ? `${position.epoch}:${position.offset}` : "-"));
    for (const { channel, _token } of ready) {
      url.searchParams.append("channel", channel);
      if (_token.held) url.searchParams.append("subscription_token", _token.held);
    }
    if (positions.some((position) => position !== "-")) url.searchParams.set("last_event_id", positions.join(","));
    if (token) url.searchParams.set("token", token);
    return url;
  }

  get #wanted() {
    return [...this.#subscriptions.values()].filter(({ state }) => state !== "refused");
  }

  /** Connect and all subscribes in one frame: one round trip to live. */
  #greet(token) {
    const own = this.#wanted.filter(({ _own }) => _own);
    const subs = Object.fromEntries(own.map(({ channel, _recovery }) => [channel, _recovery]));
    const connected = (reply) => this.#connected(reply);
    const connect = command("connect", { token, name: NAME, subs }, connected, (error) => this.#refused(error));
    const asked = this.#wanted.filter(({ _own, _token }) => !_own && _token.ready);
    this.#line.ask([connect, ...asked.map((wanted) => this.#subscribing(wanted))]);
  }

  #connected({ ping = 0, pong = false, ttl = 0, subs = {} }) {
    this.#line.expectPings(ping * 1000, pong, this.#options.silenceMs);
    this.#blocked = 0;
    this.#keepFresh(this.#token, ttl, "refresh", {});
    this.#up();
    for (const [channel, result] of Object.entries(subs)) this.#beginOwn(channel, result);
    this.#followRest();
  }

  /** Those that were asked for after the line's first words had left, or whose token was late. */
  #followRest() {
    for (const wanted of this.#wanted) if (wanted.state === "waiting") this.#follow(wanted);
  }

  #streaming(channels, tops) {
    this.#up();
    for (const [channel, result] of Object.entries(channels)) {
      this.#subscriptions.get(channel)?._begin({ ...result, top: tops[channel], recoverable: Boolean(result.epoch) });
    }
    this.#followRest();
  }

  #up() {
    this.#steadyFrom = Date.now() + STEADY_MS;
    this.#set("connected", { transport: this.transport });
    this.#line?.ask(this.#unsent.splice(0));
  }

  #refused(error) {
    if (mayPass(error, this.#token)) this.#line?.end(error.code, error.message);
    else this.#stop("refused", error.code, error.message);
  }

  /** With a channel, its subscription token is the cause: the others go on without it. */
  #streamRefused(error, channel) {
    const subscription = this.#subscriptions.get(channel);
    if (!subscription) return this.#refused(error);
    if (mayPass(error, subscription._token)) return this.#line.end(error.code, error.message);
    subscription._set("refused", error.code, error.message);
    this.#reopen();
  }

  /** The stream ends soon, with a token: another stream goes on behind its last event. */
  async #renewStream(channel) {
    const line = this.#line;
    const token = this.#subscriptions.get(channel)?._token ?? this.#token;
    if (token.drop() && (await token.get().catch(() => undefined)) && line === this.#line) this.#open();
  }

  #lost(line, code, reason) {
    if (line !== this.#line) return;
    if (code === 3005) this.#token.drop();
    if (line.transport === "sse") this.#blocked = BLOCKED_AFTER - 1;
    else if (!line.opened) this.#suspectBlocking();
    if (isFinal(code)) this.#stop("refused", code, reason);
    else this.#retry(code, reason);
  }

  /** A WebSocket that does not open is blocked only if the gateway is there: one that is down is not worth a change. */
  async #suspectBlocking() {
    const signal = AbortSignal.timeout(this.#options.timeoutMs);
    const answer = await fetch(new URL("health/ready", this.#base), { mode: "no-cors", cache: "no-store", signal }).catch(() => null);
    if ((answer?.ok || answer?.type === "opaque") && this.state !== "connected") this.#blocked += 1;
  }

  #retry(code, reason) {
    if (Date.now() > this.#steadyFrom) this.#failures = 0;
    this.#hangUp();
    const retryMs = this.#backoff(this.#failures++);
    this.#timer = setTimeout(() => this.#open(), retryMs);
    this.#set("waiting", { code, reason, retryMs });
  }

  /** Full jitter: those who were cut off together do not come back together. */
  #backoff(failures) {
    const { backoffMs, longestBackoffMs } = this.#options;
    return Math.random() * Math.min(longestBackoffMs, backoffMs * 2 ** failures);
  }

  #stop(state, code, reason) {
    clearTimeout(this.#timer);
    this.#attempt = null;
    this.#hangUp();
    this.#stopped = new GatewayError(code, reason);
    for (const { failed } of this.#unsent.splice(0)) failed(this.#stopped);
    if (state === "refused") for (const wanted of this.#wanted) wanted._set("refused", code, reason);
    this.#set(state, { code, reason });
  }

  #hangUp() {
    this.#token.rest();
    this.#steadyFrom = Infinity;
    const line = this.#line;
    this.#line = null;
    line?.end();
    for (const wanted of this.#wanted) wanted._set("waiting");
  }

  #set(state, detail) {
    this.state = state;
    this._emit("state", { state, ...detail });
  }

  #wake = () => {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.state === "waiting") this.#open();
    else if (this.state === "connected") this.#line.check();
  };

  /** Shows the server a new token on the same line, each time before the last one expires. `stale`: nobody needs it any more. */
  #keepFresh(token, ttl, method, request, stale = () => false) {
    const line = this.#line;
    token.renew(ttl, (renewed) => {
      const again = (ttl) => line.ended || stale() || this.#keepFresh(token, ttl, method, request, stale);
      line.ask([command(method, { ...request, token: renewed }, ({ ttl }) => again(ttl), () => again(RENEW_MS / 1000))]);
    });
  }

  // Channels.

  #follow(subscription) {
    if (!subscription._token.ready) this.#fetchToken(subscription);
    else if (this.transport === "sse") this.#reopen();
    else this.#line.ask([this.#subscribing(subscription)]);
  }

  async #fetchToken(subscription) {
    const line = this.#line;
    const failed = await subscription._token.get().then(() => false, () => true);
    if (line !== this.#line || subscription.state !== "waiting") return;
    if (failed) this.#resubscribe(subscription);
    else this.#follow(subscription);
  }

  /** A stream is opened with its channels: another set is another stream. Once for all changes of one turn. */
  #reopen() {
    const line = this.#line;
    queueMicrotask(() => line === this.#line && this.#open());
  }

  #subscribing(subscription) {
    const { channel, _recovery, _token, _joinLeave } = subscription;
    const line = this.#line;
    const stale = () => line !== this.#line || this.#subscriptions.get(channel) !== subscription;
    const begin = (result) => {
      if (stale()) return;
      this.#keepFresh(_token, result.ttl, "sub_refresh", { channel }, stale);
      subscription._begin(result);
    };
    const fail = (error) => {
      if (stale()) return;
      if (error.code === "timeout") line.end("timeout", error.message);
      else if (mayPass(error, _token)) this.#resubscribe(subscription);
      else subscription._set("refused", error.code, error.message);
    };
    subscription._set("catching up");
    const token = _token.held || undefined;
    return command("subscribe", { channel, ..._recovery, token, join_leave: _joinLeave }, begin, fail);
  }

  #resubscribe(subscription) {
    subscription._set("waiting");
    subscription._later(this.#backoff(subscription._failures++), () => this.#follow(subscription));
  }

  #beginOwn(channel, result) {
    const subscription = this.#subscriptions.get(channel) ?? new Subscription(this, channel);
    if (subscription.state === "catching up" && !subscription._own) return; // the page asks for it itself
    subscription._own = true;
    this.#subscriptions.set(channel, subscription);
    subscription._begin(result);
  }

  #pushed({ channel, pub, gap, join, leave, unsubscribe, subscribe }) {
    const subscription = this.#subscriptions.get(channel);
    if (unsubscribe?.code === 2501) subscription?._token.drop();
    if (pub) subscription?._take(pub);
    else if (gap) subscription?._skip(gap.epoch, gap.offset);
    else if (join) subscription?._emit("join", { channel, info: join.info });
    else if (leave) subscription?._emit("leave", { channel, info: leave.info });
    else if (subscribe) this.#beginOwn(channel, subscribe);
    else if (unsubscribe?.code >= 2500 && subscription) this.#resubscribe(subscription);
    else if (unsubscribe) subscription?._set("refused", unsubscribe.code, unsubscribe.reason);
  }
}
