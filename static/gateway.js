/**
 * The browser client of the gateway: one ES module, nothing to build, nothing else to load.
 *
 *     import { Gateway } from "/static/gateway.js";
 *     const gateway = new Gateway({ token });
 *     gateway.subscribe("posts:tech").on("publication", ({ data }) => show(data));
 *
 * It speaks the Centrifuge protocol over WebSocket. When the connection is lost, the module connects again by itself, and
 * each channel continues after its last position: the publications that were missed arrive once, in order and marked
 * `recovered`, before any live one. Where history no longer holds all of them, a `gap` is emitted. Where WebSocket does not
 * get through, server-sent events carry the same publications. They only receive: calls that need an answer are rejected
 * there with the code "sse".
 *
 * new Gateway({ url, token, debug, timeoutMs, backoffMs, longestBackoffMs, silenceMs, platform })
 *   url               of the gateway; by default, where this module came from
 *   token             a JWT, or a function that returns one, or a promise of one. The function may also return the Response
 *                     of a fetch, whose text is the token. It is called again before the token expires. If it throws, takes
 *                     30 s, or returns a Response that is not ok or a text that is not a JWT, it is called again after a
 *                     backoff. If it returns nothing, the client is anonymous; but a function that has returned a token
 *                     once is called again until it returns another one: nobody becomes anonymous by accident
 *   debug             true: for each refusal the console shows the gateway's text and a sentence on what to do. On loopback it does
 *                     that by itself, where nobody listens for the refusal
 *   timeoutMs         5000: for a connection to open, and for a command to be answered
 *   backoffMs         500: a reconnect waits a random time of up to this, doubled with each failure, up to …
 *   longestBackoffMs  20000
 *   silenceMs         10000: a connection that is silent for so long after a ping was due is closed
 *   platform          { WebSocket, EventSource, fetch, setTimeout, clearTimeout, now, random, console }: what is used in
 *                     place of the globals of these names (now and random: Date.now and Math.random), for tests and for
 *                     versions of Node that lack one. Without a WebSocket, as where a page is rendered on a server, a
 *                     Gateway does not connect by itself, and connect() throws
 *
 * gateway.subscribe(channel, { since, token, joinLeave })  → Subscription
 *   since             { epoch, offset }: the subscription starts after this position
 *   token             a subscription token, for channels that ask for one; as above. Its function is called with { channel }
 *   joinLeave         true: asks for "join" and "leave", where the channel's rules allow it
 *                     A second subscribe() to a channel returns the same Subscription, which ends with as many
 *                     unsubscribe() as there were subscribe(). It throws if its options differ; two token functions do not
 *                     count as different. A subscription that the server made counts as one subscribe(), until the server ends it.
 * gateway.unsubscribe(channel)
 * gateway.publish(channel, data)         → promise, resolved once the publication is in the channel
 * gateway.history(channel, { limit, since, reverse })  → promise of { publications, epoch, offset }; at most 300, and about 256 KiB
 * gateway.rpc(method, data)              → promise of the method's data
 * gateway.inbox.list({ limit, before })  → promise of { notifications: [{ id, offset, ms, unread, data }], unread, next, … },
 *                                        newest first; next is the `before` of the following page, null after the last
 * gateway.inbox.read({ ids } | { upto } | { ids, upto } | { all: true })   marks as read, on all the user's devices
 *                                        (where only event streams get through, both use plain HTTP)
 * gateway.inbox.unread                   the number of unread notifications; null while it is not known
 * gateway.disconnect()                   closes the connection; positions are kept
 * gateway.connect()                      connects at once, from any state; a new gateway connects by itself
 * gateway.close()                        disconnects, and ends all subscriptions
 * gateway.state, gateway.transport       as in the event "state"
 * gateway.client                         the id of this connection, as presence and the server API name it; null while there is none
 * Subscription: channel, state, position ({ epoch, offset } or null), publish(data), history(options), unsubscribe()
 *   presence()        → promise of the clients in the channel: [{ user, client, conn_info, chan_info }, …]
 *   presenceStats()   → promise of their number: { clients, users }
 *
 * on(event, handler) adds a listener and returns a function that removes it. That function has an on() too, which adds another
 * listener, and the function then removes both: `const stop = room.on("join", greet).on("leave", wave)`. off(event, handler)
 * removes one as well. The events are:
 *   "publication"  { channel, data, offset, tags, info, recovered }: recovered is true for one that was missed and then
 *                  delivered; an ephemeral one has no offset; info ({ user, client, conn_info }) if a client published it
 *   "gap"          { channel, epoch, offset }: what lay between the last publication and this position is gone
 *   "join", "leave"             { channel, info }: this client ({ user, client, conn_info, chan_info }) came or went; our own too
 *   "unread" of the gateway     { unread, read, upto }: the inbox's count, once it is known and whenever it changes; read (ids)
 *                  or upto (an offset) name what was marked as read, here or on another device
 *   "state" of a subscription   { channel, state, code, reason }, state: "waiting" for a connection, "catching up", "live",
 *                  "refused" (code and reason name the cause; tried again only by a new subscribe(), or a connect() while disconnected), "closed";
 *                  "live" has the code "sse" and a reason where joinLeave was asked for and event streams cannot carry it
 *   "state" of the gateway      { state, transport, code, reason, retryMs }, transport: "websocket" or "sse", state:
 *                  "connecting", "connected", "waiting" (for the next attempt, in retryMs), "refused" (for good), "closed"
 * The gateway emits all events of its subscriptions but "state", also those of the user's own channels, to which the server
 * subscribes every client. A refusal for which nobody listens is a warning on the console.
 *
 * Errors are GatewayErrors with a message for people and a code: the server's number (103 permission denied, 109 token
 * expired, 3500 invalid token …), or a word: "timeout", "lost" (the connection was lost; it is not known whether the command
 * was carried out), "closed" (by disconnect), "sse" (see above), "token" (its function failed), "options" (they differ from
 * those of the first subscribe), "platform" (there is no WebSocket, or no URL to connect to).
 */

const NAME = "gateway.js";
const BLOCKED_AFTER = 2; // WebSockets in a row that brought nothing although the gateway answers HTTP
const STEADY_MS = 5000; // a connection that lasted so long starts the backoff anew
const RENEW_MS = 10_000; // before a token expires
const TOKEN_MS = 30_000; // for the page's function to return a token
const SLOW_TOKEN_MS = 1000; // for the tokens of channels to come before the connection is opened without them
const REFUSED_TOKENS_MOST = 3; // so many further tokens are asked for before the gateway's refusal is final
const INVALID_TOKEN = 3500;
const TOO_LARGE = 1009; // the close code after a message that is larger than limits.message_bytes
const NO_TOKEN = 3501; // the close code "bad request", which is also that of a client without a token where one is needed
/** What to do about a refusal: the gateway sends a code and a short text, and writes the cause into its log. */
const ADVICE = {
  102: "the gateway's configuration has no namespace of this name; the gateway's log has the cause",
  103: "the rules of the channel do not admit this user, or ask for a subscription token; the gateway's log names the rule",
  106: "this page follows more channels than limits.channels_per_client; the gateway's log has the cause",
  2000: "a backend ended this subscription, or the rules of the channel changed",
  [INVALID_TOKEN]: "the gateway's log names the fault of the token, and so does `gateway doctor --token T`; often the backend signs with another secret than tokens.hmac_secret",
  [NO_TOKEN]: "the gateway could not read a message; its log has the cause",
  3502: "no first command came in time; the gateway's log has the cause",
  3503: "a backend ended this connection with POST /api/disconnect",
  3504: "limits.connections, connections_per_address or connections_per_user is reached; the gateway's log names which",
  3505: "the token names more channels than limits.channels_per_client",
};
const TOKEN_NEEDED =
  'this page sends no token, and the gateway admits nobody without one: pass it, as in new Gateway({ token: () => fetch("/my-token") }), or let a namespace have subscribe = "anyone"';
const FRAME_CHARACTERS = 20_000; // a character is up to three bytes, and limits.message_bytes of the gateway is 65,536 by default
let frameCharacters = FRAME_CHARACTERS; // as many as the gateways of this page take: halved where one ended a connection for several short commands
const STREAM_CLOSED = 2; // the readyState of an EventSource that will not try again
const LONGEST_TIMER_MS = 2 ** 31 - 1; // a longer setTimeout fires at once
const JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;
const LOOPBACK = /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/;

/** The globals are looked up when a Gateway is made, so that this module can be imported where some are missing. */
const PLATFORM = {
  get WebSocket() {
    return globalThis.WebSocket;
  },
  get EventSource() {
    return globalThis.EventSource;
  },
  get console() {
    return globalThis.console;
  },
  fetch: (...request) => globalThis.fetch(...request),
  setTimeout: (act, delayMs) => globalThis.setTimeout(act, delayMs),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
  now: () => Date.now(),
  random: () => Math.random(),
};

export class GatewayError extends Error {
  name = "GatewayError";

  /** `hint` is a sentence for developers, which a gateway in debugging may add to its message. */
  constructor(code, message, temporary = false, hint = undefined) {
    super(message);
    this.code = code;
    this.temporary = temporary;
    this.hint = hint;
  }
}

const isFinal = (closeCode) => (closeCode >= 3500 && closeCode < 4000) || (closeCode >= 4500 && closeCode < 5000);

/** Whether trying again may help. 105: an unsubscribe is still under way; 109 and 3500: if there is another token. */
function isWorthRetrying({ code, temporary }, token) {
  if (code === 109 && token) return token.discard();
  if (code === INVALID_TOKEN && token) return token.discardRefused();
  if (typeof code === "string" || code >= 3000) return !isFinal(code);
  return temporary || code < 100 || [100, 105, 109, 111, 113].includes(code);
}

/**
 * A channel or method that is undefined would leave the command without it. Of half a surrogate pair, as of an emoji that was cut in two, the
 * gateway makes another character: the page would follow a channel of which it knows nothing.
 */
function requireName(kind, name) {
  if (typeof name !== "string" || !name) {
    throw new TypeError(`the ${kind} must be a string that is not empty; it is ${name === "" ? "empty" : typeof name}`);
  }
  if (/\p{Surrogate}/u.test(name)) throw new TypeError(`the ${kind} ${JSON.stringify(name)} holds half of a surrogate pair`);
}

/** Settles as `promise` does, or rejects after `delayMs`. */
function within(platform, delayMs, promise) {
  return new Promise((resolve, reject) => {
    const timer = platform.setTimeout(() => reject(new Error(`it took longer than ${delayMs / 1000} s`)), delayMs);
    promise.then(resolve, reject).finally(() => platform.clearTimeout(timer));
  });
}

/** The token in what the page's function returned; "" if it returned nothing. An error does not show the text: it may be a secret. */
async function tokenIn(returned) {
  const answer = await returned;
  if (!answer) return "";
  if (typeof answer.text === "function") {
    if (!answer.ok) throw new Error(`it returned an answer with status ${answer.status}`);
    return tokenIn(answer.text());
  }
  const token = typeof answer === "string" ? answer.trim() : "";
  if (!JWT.test(token)) throw new Error("it returned something that is not a JWT; let it return the token alone, as text");
  return token;
}

/** The cause that the gateway names in a response which is no event stream. */
async function refusalIn(response) {
  if (!response.ok) return response.json();
  await response.body?.cancel(); // the stream can be opened after all
  return null;
}

/** A token as the page gives it: a string, or a function that is called for another one once the last was discarded. */
class Token {
  value; // "" where there is none; undefined until the page's function has returned
  given; // by the page
  #platform;
  #about;
  #returnedOne = false;
  #refused = 0; // tokens in a row that the gateway did not accept
  #calling; // the promise of a token that the page's function has not returned yet
  #timer;

  constructor(platform, given, about) {
    if (given != null && typeof given !== "string" && typeof given !== "function") {
      throw new TypeError("the token must be a string, or a function that returns one");
    }
    this.given = given;
    this.#platform = platform;
    this.#about = about;
    if (!this.#renewable) this.value = (given ?? "").trim();
  }

  get #renewable() {
    return typeof this.given === "function";
  }

  get ready() {
    return this.value !== undefined;
  }

  /** Rejects with a GatewayError whose code is "token". */
  async get() {
    if (!this.#renewable || this.value) return this.value || undefined;
    const calling = (this.#calling ??= this.#call());
    try {
      const token = await calling;
      if (calling === this.#calling) this.value = token; // else it was discarded meanwhile
      return token || undefined;
    } finally {
      if (calling === this.#calling) this.#calling = undefined;
    }
  }

  async #call() {
    try {
      const called = (async () => tokenIn(this.given(this.#about)))();
      const token = await within(this.#platform, TOKEN_MS, called);
      // A client that had a token must not become anonymous because it lost it.
      if (!token && this.#returnedOne) throw new Error("it returns none any more");
      this.#returnedOne ||= Boolean(token);
      return token;
    } catch (error) {
      throw new GatewayError("token", `the token function failed: ${error?.message ?? error}`);
    }
  }

  /** The token is not valid any more. Returns whether another one can be had. */
  discard() {
    if (this.#renewable) this.value = this.#calling = undefined;
    return this.#renewable;
  }

  /** The gateway refused the token. Returns whether another one is worth asking for. */
  discardRefused() {
    return ++this.#refused <= REFUSED_TOKENS_MOST && this.discard();
  }

  forgetRefusals() {
    this.#refused = 0;
  }

  /** Calls `use` with another token in time before this one expires, in ttl seconds. */
  renew(ttl, use) {
    this.cancelRenewal();
    if (!ttl || !this.#renewable) return;
    const delayMs = Math.min(Math.max(ttl * 1000 - RENEW_MS, ttl * 500), LONGEST_TIMER_MS);
    const timer = (this.#timer = this.#platform.setTimeout(async () => {
      this.discard();
      const token = await this.#call().catch(() => undefined);
      if (timer !== this.#timer) return;
      // A failure does no harm yet: the server waits 25 s after the expiry, and then has us connect again with a new token.
      if (!token) return this.renew(RENEW_MS / 1000, use);
      this.value = token;
      use(token);
    }, delayMs));
  }

  cancelRenewal() {
    this.#platform.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/** A command to send. Its JSON is made here, so that data that cannot be JSON fails for the caller who passed it. */
function command(method, request, resolve = () => {}, reject = () => {}) {
  return { method, text: JSON.stringify(request), resolve, reject };
}

/** Commands in as few frames as frameCharacters allows: the gateway ends a connection whose frame is too long. */
function framesOf(texts) {
  const frames = [];
  for (const text of texts) {
    if (frames.length && frames.at(-1).length + text.length < frameCharacters) frames[frames.length - 1] += `\n${text}`;
    else frames.push(text);
  }
  return frames;
}

class Emitter {
  #listeners; // event → set of { handler }: a handler that was added twice is called twice, and removed one by one
  #console;

  constructor(console, ...events) {
    this.#console = console;
    this.#listeners = Object.fromEntries(events.map((event) => [event, new Set()]));
  }

  on(event, handler) {
    const added = [];
    const remove = () => added.forEach(({ listeners, listener }) => listeners.delete(listener));
    remove.on = (event, handler) => {
      added.push(this.#add(event, handler));
      return remove;
    };
    return remove.on(event, handler);
  }

  #add(event, handler) {
    const listeners = this.#listeners[event];
    if (!listeners) throw new TypeError(`there is no event "${event}"; there are ${Object.keys(this.#listeners).join(", ")}`);
    if (typeof handler !== "function") throw new TypeError(`the handler of "${event}" must be a function`);
    const listener = { handler };
    listeners.add(listener);
    return { listeners, listener };
  }

  off(event, handler) {
    const listeners = this.#listeners[event];
    listeners?.delete([...listeners].find((listener) => listener.handler === handler));
    return this;
  }

  _hasListener(event) {
    return this.#listeners[event].size > 0;
  }

  /** A handler that throws harms neither the other handlers nor the connection. One that another removes meanwhile is not called. */
  _emit(event, detail) {
    const listeners = this.#listeners[event];
    for (const listener of [...listeners]) {
      try {
        if (listeners.has(listener)) listener.handler(detail);
      } catch (error) {
        if (globalThis.reportError) globalThis.reportError(error);
        else this.#console.error(error);
      }
    }
  }
}

/** One channel that the page follows. Names that begin with an underscore are the gateway's. */
class Subscription extends Emitter {
  state = "waiting";
  position = null;
  _references = 0; // subscribe() that no unsubscribe() has taken back yet; the server's own subscription is one of them
  _serverSide = false;
  _isHeld = false; // whether the server's own subscription is counted in _references
  _failures = 0;
  _token;
  _joinLeave;
  #begun = false; // on this connection: what arrives before the reply to subscribe is in that reply too, or older
  _offer = null; // a subscription by the server, which came before the reply to the page's own subscribe: its result
  #gateway;
  #since;
  #timer;
  #recoveredUpTo = 0; // publications up to this offset were missed; later ones are live

  constructor(gateway, channel, { since, token, joinLeave } = {}) {
    super(gateway._platform.console, "publication", "gap", "join", "leave", "state");
    this.#gateway = gateway;
    this.channel = channel;
    this._token = new Token(gateway._platform, token, { channel });
    this._joinLeave = joinLeave;
    this.#since = since;
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

  /** A further subscribe() shares this subscription, so it cannot have other options. Those that it does not mention are not compared. */
  _requireSameOptions({ since, token, joinLeave }) {
    const differences = [
      since && !(since.epoch === this.#since?.epoch && since.offset === this.#since?.offset) && "since",
      token && !this._takesToken && !this.#sharesToken(token) && "token",
      joinLeave !== undefined && Boolean(joinLeave) !== Boolean(this._joinLeave) && "joinLeave",
    ].filter(Boolean);
    if (!differences.length) return;
    const difference = `this page follows "${this.channel}" already, with another value of ${differences.join(" and ")}`;
    throw new GatewayError("options", `${difference}: use the same options, or unsubscribe first`);
  }

  /** Whether a token of another subscribe() is its own from then on: it was refused, or the server made it, at a time that no page knows. */
  get _takesToken() {
    return this.state === "refused" || (this._serverSide && !this._token.given);
  }

  /** Components that fetch tokens each have a function of their own, so any two functions are taken for the same. */
  #sharesToken(token) {
    const { given } = this._token;
    return token === given || (typeof token === "function" && typeof given === "function");
  }

  get _recovery() {
    return this.position ? { recover: true, ...this.position } : {};
  }

  get _hasBegun() {
    return this.#begun;
  }

  /** Whether its subscribe is under way. */
  get _isAsked() {
    return this.state === "catching up" && !this.#begun;
  }

  _set(state, code, reason) {
    if (this.state === "closed") return; // a listener ended it while all were being notified
    this.#begun &&= state === "catching up" || state === "live";
    if (state !== "catching up") this._offer = null;
    this.#gateway._platform.clearTimeout(this.#timer);
    if (!this.#begun) this._token.cancelRenewal();
    if (state === "refused") this._token.discard(); // another token may be accepted
    if (state === this.state) return;
    this.state = state;
    this._emit("state", { channel: this.channel, state, code, reason });
  }

  _refuse({ code, message, hint }) {
    this.#gateway._warn(`to let this page follow "${this.channel}"`, [this], code, message, hint);
    this._set("refused", code, message);
  }

  _after(delayMs, act) {
    this.#timer = this.#gateway._platform.setTimeout(act, delayMs);
  }

  /**
   * The server's reply to subscribe. `top` is the offset where catching up ends, if that is not the last of these publications.
   * `gapFollows`: the position changes only with the event of the gap, so that a stream which is cut before that event does not hide it.
   */
  _begin({ recovered, was_recovering, recoverable, epoch = "", offset = 0, publications = [], top, gapFollows = false }) {
    this.#begun = true;
    this._failures = 0;
    this._offer = null;
    this._token.forgetRefusals();
    if (this.channel.startsWith(INBOX)) this.#gateway.inbox._refresh();
    const skips = this._serverSide && recoverable && this.#misses(epoch, offset); // it need not have been asked for our position
    if (recovered && !skips) this.position = { epoch, offset: this.position?.offset ?? offset };
    else if (!gapFollows && (was_recovering || skips)) this._skipTo(epoch, offset);
    else if (!gapFollows) this.position = recoverable ? { epoch, offset } : null;
    this.#recoveredUpTo = recovered ? (top ?? publications.at(-1)?.offset ?? 0) : 0;
    for (const publication of publications) this._receive(publication);
    this.#updateState();
  }

  /** Whether something may be missing between the last publication and this position. */
  #misses(epoch, offset) {
    return this.position !== null && (this.position.epoch !== epoch || this.position.offset < offset);
  }

  _receive({ data, offset, tags, info }) {
    if (!this.#begun) return void this._offer?.publications.push({ data, offset, tags, info });
    if (!offset && data?.inbox && this.channel.startsWith(INBOX)) return this.#gateway.inbox._receive(data.inbox);
    if (offset && this.position) {
      if (offset <= this.position.offset) return;
      this.position.offset = offset;
    }
    const recovered = Boolean(offset) && offset <= this.#recoveredUpTo;
    this._emit("publication", { channel: this.channel, data, offset, tags, info, recovered });
    this.#updateState();
  }

  _skipTo(epoch, offset) {
    this.#recoveredUpTo = 0; // it may have been of another epoch
    this.position = { epoch, offset };
    this._emit("gap", { channel: this.channel, epoch, offset });
    this.#updateState();
  }

  #updateState() {
    if (!this.#begun) return;
    if ((this.position?.offset ?? 0) < this.#recoveredUpTo) this._set("catching up");
    else if (this._joinLeave && this.#gateway.transport === "sse") this._set("live", "sse", onlyReceives("joinLeave"));
    else this._set("live");
  }

  _emit(event, detail) {
    super._emit(event, detail);
    if (event !== "state") this.#gateway._emit(event, detail);
  }
}

const INBOX = "notifications:";

/**
 * The user's inbox. The gateway counts what is unread, and announces each change. A state carries the number of its change, so
 * that an answer which arrives after a newer announcement does not bring back an older count.
 */
class Inbox {
  unread = null;
  #gateway;
  #epoch;
  #change = -1;
  #timer;
  #failures = 0; // of reading it anew, since one succeeded

  constructor(gateway) {
    this.#gateway = gateway;
  }

  async list({ limit = 20, before } = {}) {
    const query = before ? `?limit=${limit}&before=${encodeURIComponent(before)}` : `?limit=${limit}`;
    const listed = await this.#call("inbox.list", { limit, before }, `inbox${query}`);
    this._receive(listed);
    return listed;
  }

  async read({ ids, upto, all } = {}) {
    const marks = { ids, upto, all };
    const state = await this.#call("inbox.read", marks, "inbox/read", { method: "POST", keepalive: true, body: JSON.stringify(marks) });
    // The announcement names what was marked as well, and is ignored where it comes after this. Of ids up to an offset only it knows which.
    const marked = ids ? { read: upto ? undefined : ids } : { upto: upto ? Number(upto.split(":").at(-1)) : state.offset };
    this._receive({ ...state, ...marked });
  }

  /** An event stream only receives: there, the inbox is asked over plain HTTP. */
  #call(method, request, path, options) {
    return this.#gateway.transport === "sse" ? this.#gateway._fetch(path, options) : this.#gateway.rpc(method, request);
  }

  _receive({ unread, change, epoch, read, upto }) {
    if (epoch === this.#epoch && change <= this.#change) return;
    this.#epoch = epoch;
    this.#change = change;
    this.unread = unread;
    this.#gateway._emit("unread", { unread, read, upto });
  }

  /** Called when the subscription begins: announcements may have been missed before that. */
  async _refresh() {
    const gateway = this.#gateway;
    const { clearTimeout, setTimeout } = gateway._platform;
    clearTimeout(this.#timer);
    try {
      await this.list({ limit: 0 });
      this.#failures = 0;
    } catch (error) {
      // If the connection ended, the next one begins the subscription anew, which brings us back here.
      if (!isWorthRetrying(error) || gateway.state !== "connected") return;
      this.#timer = setTimeout(() => this._refresh(), gateway._backoff(this.#failures++));
    }
  }
}

/** What both transports share: a connection ends once, and reports why to its listener. */
class Connection {
  ended = false;
  #silentMs = Infinity;

  constructor(platform, timeoutMs, listener) {
    this.platform = platform;
    this.timeoutMs = timeoutMs;
    this.listener = listener;
    this.lastReceived = platform.now();
    this.timer = platform.setTimeout(() => this.end("timeout", "the connection did not open in time"), timeoutMs);
  }

  /** The server announced its pings: from now on silence means that the connection is dead, or that this machine slept. */
  expectPings(pingMs, silenceMs) {
    if (!pingMs) return;
    this.#silentMs = pingMs + silenceMs;
    this.#checkSilence();
  }

  #checkSilence() {
    const now = this.platform.now();
    this.lastReceived = Math.min(this.lastReceived, now); // the clock may have been set back
    const leftMs = this.lastReceived + this.#silentMs - now;
    if (leftMs <= 0) this.end("timeout", "nothing came from the gateway");
    else this.timer = this.platform.setTimeout(() => this.#checkSilence(), leftMs);
  }

  /** The page woke up, or the network came back. */
  check() {
    this.platform.clearTimeout(this.timer);
    if (this.#silentMs < Infinity) this.#checkSilence();
  }

  end(code, reason, hint) {
    if (this.ended) return;
    this.ended = true;
    this.platform.clearTimeout(this.timer);
    this.release();
    this.listener.ended(code, reason, hint);
  }
}

class SocketConnection extends Connection {
  transport = "websocket";
  opened = false;
  greeted = false; // connect was sent, which has to be the first command
  left = new Set(); // channels whose unsubscribe was sent before the reply to connect was read; null after that
  answered = false; // something came through it: some proxies let a WebSocket open, and no more
  #pending = new Map(); // id → { method, size, resolve, reject, timer }
  #lastId = 0;
  answersPings = false;

  constructor(platform, socket, timeoutMs, listener) {
    super(platform, timeoutMs, listener);
    this.socket = socket;
    socket.onopen = () => {
      platform.clearTimeout(this.timer);
      this.opened = true;
      listener.opened();
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onerror = () => {}; // onclose follows; with the package ws, an error that nobody listens for ends the process, also after close()
    socket.onclose = ({ code, reason }) => {
      if (code === TOO_LARGE) this.#rejectTooLarge();
      this.end(code, reason || "the connection broke off");
    };
  }

  /** Sends commands, in one frame if they are short. They are resolved or rejected while the reply's frame is read, before any push that follows it. */
  send(commands) {
    const texts = commands.map(({ method, text, resolve, reject }) => {
      const id = ++this.#lastId;
      const expire = () => this.#settle(id)?.reject(new GatewayError("timeout", `${method} was not answered in time`));
      this.#pending.set(id, { method, size: text.length, resolve, reject, timer: this.platform.setTimeout(expire, this.timeoutMs) });
      return `{"id":${id},"${method}":${text}}`;
    });
    for (const frame of framesOf(texts)) this.socket.send(frame);
  }

  leave(channel) {
    this.left?.add(channel);
    this.send([command("unsubscribe", { channel })]);
  }

  #settle(id) {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    this.platform.clearTimeout(pending?.timer);
    return pending;
  }

  #receive(frame) {
    this.lastReceived = this.platform.now();
    this.answered = true;
    for (const text of frame.split("\n")) {
      if (this.ended) return;
      if (text !== "{}") this.#dispatch(JSON.parse(text));
      else if (this.answersPings) this.socket.send("{}");
    }
  }

  #dispatch({ id, push, error, ...reply }) {
    if (push) return this.listener.pushed(push);
    const pending = this.#settle(id);
    if (error) pending?.reject(new GatewayError(error.code, error.message, error.temporary, error.hint));
    else pending?.resolve(reply[pending.method] ?? {});
  }

  /** The gateway took no frame that was larger than it allows. A command that fills a frame was too long; of short ones, there were too many in one. */
  #rejectTooLarge() {
    const [longest] = [...this.#pending].sort(([, a], [, b]) => b.size - a.size);
    if (!longest) return;
    if (longest[1].size < frameCharacters) {
      frameCharacters /= 2;
      return;
    }
    const tooLarge = `${longest[1].method} is larger than limits.message_bytes of the gateway; it was not carried out`;
    this.#settle(longest[0]).reject(new GatewayError(TOO_LARGE, tooLarge));
  }

  /** Asks whether the gateway still answers. */
  check() {
    super.check();
    if (this.ended) return;
    const failed = ({ code }) => code === "timeout" && this.end("timeout", "the gateway did not answer");
    this.send([command("ping", {}, () => {}, failed)]);
  }

  release() {
    this.socket.onopen = this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    const unknown = "the connection was lost before the answer came; it is not known whether the command was carried out";
    const lost = new GatewayError("lost", unknown);
    for (const id of [...this.#pending.keys()]) this.#settle(id).reject(lost);
  }
}

const onlyReceives = (what) => `${what} needs WebSocket, which does not get through here; server-sent events only receive`;

/** Server-sent events. EventSource does not reconnect by itself here: there is one backoff, and each attempt may try WebSocket. */
class StreamConnection extends Connection {
  transport = "sse";
  opened = false;

  constructor(platform, source, timeoutMs, listener) {
    super(platform, timeoutMs, listener);
    this.source = source;
    const on = (event, act) =>
      source.addEventListener(event, ({ data }) => {
        this.lastReceived = platform.now();
        if (!this.ended) act(JSON.parse(data));
      });
    on("connected", ({ channels, tops, ping = 0 }) => {
      platform.clearTimeout(this.timer);
      this.opened = true;
      listener.opened(channels, tops, ping * 1000);
    });
    on("ping", () => {});
    on("gap", (gap) => listener.pushed({ channel: gap.channel, gap }));
    on("message", (pub) => listener.pushed({ channel: pub.channel, pub }));
    on("expiring", ({ channel }) => listener.expiring(channel));
    on("refused", ({ code, message, hint, channel }) => listener.refused(new GatewayError(code, message, false, hint), channel));
    source.onerror = () => {
      // One that gave up before it began was answered with a status, which it does not show.
      const refused = source.readyState === STREAM_CLOSED && !this.opened;
      this.end(refused ? "status" : "lost", "the event stream broke off");
    };
  }

  send(commands) {
    for (const { method, reject } of commands) {
      reject(new GatewayError("sse", onlyReceives(method)));
    }
  }

  release() {
    this.source.close();
  }
}

export class Gateway extends Emitter {
  state = "closed";
  _platform;
  #base; // URL of the gateway; null where it is not known
  #options;
  #token;
  #subscriptions = new Map();
  #queued = []; // commands that wait for a connection
  #connection = null;
  #attempt = {}; // a new object each time, so that what an earlier attempt still brings is ignored. Null: none is wanted
  #failures = 0;
  #refusedTokens = 0; // connections in a row that ended because of a token
  #blocked = 0;
  #steadyFrom = Infinity;
  #timer;
  #stopReason; // the GatewayError with which commands are rejected while no connection is wanted
  #warnedOfToken = false;
  #warnedOfOrigin = false;
  #client = null;
  inbox;

  constructor(options = {}) {
    const { url, token, debug = false, timeoutMs = 5000, silenceMs = 10_000, platform } = options;
    const { backoffMs = 500, longestBackoffMs = 20_000 } = options;
    const complete = { ...PLATFORM, ...platform };
    super(complete.console, "publication", "gap", "join", "leave", "state", "unread");
    this._platform = complete;
    this.#base = baseOf(url);
    this.#token = new Token(complete, token);
    this.#options = { debug, timeoutMs, backoffMs, longestBackoffMs, silenceMs };
    this.inbox = new Inbox(this);
    this.#listenToPage("addEventListener");
    const first = this.#attempt;
    // After the page's script has made its first subscribes. Where a server renders the page, nothing connects.
    const mayConnect = complete.WebSocket && (this.#base || globalThis.document);
    if (mayConnect) queueMicrotask(() => first === this.#attempt && this.connect());
  }

  #listenToPage(method) {
    for (const event of ["online", "pageshow"]) globalThis[method]?.(event, this.#wake);
    globalThis.document?.[method]("visibilitychange", this.#wake);
  }

  get transport() {
    return this.#connection?.transport;
  }

  /** Whether commands can be sent: while listeners are notified that the connection is gone, the state may be of before. */
  get #isOpen() {
    return this.state === "connected" && this.#connection !== null;
  }

  /** Null also where only event streams get through: those receive no id. */
  get client() {
    return this.#client;
  }

  subscribe(channel, options = {}) {
    requireName("channel", channel);
    const known = this.#subscriptions.get(channel);
    known?._requireSameOptions(options);
    const subscription = known ?? new Subscription(this, channel, options);
    if (known?._takesToken && options.token) known._token = new Token(this._platform, options.token, { channel });
    subscription._references += 1;
    if (known && known.state !== "refused") return known;
    this.#subscriptions.set(channel, subscription);
    subscription._token.forgetRefusals();
    subscription._set("waiting");
    if (this.#isOpen) this.#requestSubscription(subscription);
    // Without a channel there was no stream to open: only WebSocket was tried, ever more seldom.
    else if (this.state === "waiting" && this.#blocked >= BLOCKED_AFTER) this.#reopen();
    return subscription;
  }

  unsubscribe(channel) {
    const subscription = this.#subscriptions.get(channel);
    if (!subscription) return;
    subscription._references -= 1;
    if (subscription._references <= 0) this.#endSubscription(subscription);
  }

  #endSubscription(subscription) {
    const followed = subscription.state === "catching up" || subscription.state === "live";
    this.#subscriptions.delete(subscription.channel);
    if (followed && this.#connection?.greeted) this.#connection.leave(subscription.channel); // a listener may ask for the channel again
    subscription._set("closed");
    if (this.transport === "sse") this.#reopen();
  }

  async publish(channel, data) {
    requireName("channel", channel);
    await this._call("publish", { channel, data });
  }

  async history(channel, { limit = 100, since, reverse = false } = {}) {
    requireName("channel", channel);
    return this._call("history", { channel, limit, since, reverse });
  }

  async rpc(method, data) {
    requireName("method", method);
    return (await this._call("rpc", { method, data })).data;
  }

  /** The token is part of the query, as an event stream's is: a header would need a preflight where the page is of another origin. */
  async _fetch(path, options) {
    const url = new URL(path, this.#base);
    const token = await this.#token.get();
    if (token) url.searchParams.set("token", token);
    const answer = await this.#request(url, options, (response) => response.json()).catch((error) => {
      throw new GatewayError("lost", `the gateway did not answer: ${error.message}`);
    });
    if (answer.error?.code === 109) this.#token.discard();
    if (answer.error) throw new GatewayError(answer.error.code, answer.error.message, answer.error.temporary, answer.error.hint);
    return answer;
  }

  /** Whether what failed may succeed a moment later, without anything that the page does. */
  _mayPass(error) {
    return error.code !== "sse" && isWorthRetrying(error);
  }

  /** An HTTP request, ended where it has not been answered and read in time. */
  async #request(url, options, read) {
    const { fetch, setTimeout, clearTimeout } = this._platform;
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(new Error("it took too long")), this.#options.timeoutMs);
    try {
      return await read(await fetch(url, { ...options, cache: "no-store", signal: abort.signal }));
    } finally {
      clearTimeout(timer);
    }
  }

  connect() {
    this.#requirePlatform();
    this.#listenToPage("addEventListener"); // close() ended that
    if (this.state === "connecting" || this.state === "connected") return;
    if (this.state === "refused") this.#token.discard(); // another token may be accepted
    this.#failures = this.#refusedTokens = 0;
    for (const subscription of this.#subscriptions.values()) {
      subscription._token.forgetRefusals();
      subscription._set("waiting");
    }
    this.#open();
  }

  #requirePlatform() {
    if (!this._platform.WebSocket) {
      throw new GatewayError("platform", "there is no WebSocket here: pass one, as in new Gateway({ platform: { WebSocket } })");
    }
    if (!this.#base) throw new GatewayError("platform", "this module was not loaded from a gateway: name one, as in new Gateway({ url })");
  }

  disconnect() {
    this.#stop("closed", new GatewayError("closed", "the line is cut; nothing was sent"));
  }

  close() {
    this.#listenToPage("removeEventListener");
    this.disconnect();
    for (const subscription of [...this.#subscriptions.values()]) this.#endSubscription(subscription);
  }

  _call(method, request) {
    return new Promise((resolve, reject) => {
      const called = command(method, request, resolve, reject);
      if (this.#isOpen) return this.#connection.send([called]);
      if (!this.#attempt) return reject(this.#stopReason);
      this.#queued.push(called);
      called.timer = this._platform.setTimeout(() => {
        this.#queued.splice(this.#queued.indexOf(called), 1);
        reject(new GatewayError("timeout", "there is no connection to the gateway; nothing was sent"));
      }, this.#options.timeoutMs);
    });
  }

  /** The commands that waited for a connection, which wait no more. */
  #takeQueued() {
    const taken = this.#queued.splice(0);
    for (const { timer } of taken) this._platform.clearTimeout(timer);
    return taken;
  }

  /**
   * For the developer of a page in which none of `emitters` has a listener for refusals, or which asks for it by `debug`. On a site that is
   * public, the console shows no more than a code.
   */
  _warn(what, emitters, code, text, hint) {
    const { debug } = this.#options;
    if (!debug && emitters.some((emitter) => emitter._hasListener("state"))) return;
    const shown = hint || debug || LOOPBACK.test(this.#base?.hostname);
    const rest = shown ? `${text}: ${hint || this.#adviceOn(code)}` : "new Gateway({ debug: true }) shows the gateway's sentence here";
    this._platform.console.warn(`gateway.js: the gateway refused ${what} (code ${code}): ${rest}`);
  }

  #adviceOn(code) {
    if (code === NO_TOKEN && !this.#token.value) return TOKEN_NEEDED;
    return ADVICE[code] ?? "the gateway's log has the cause";
  }

  /** Of a function that fails again and again, the first failure is a warning. */
  _warnOfToken(error) {
    if (!this.#warnedOfToken) this._platform.console.warn(`gateway.js: ${error.message}; it is called again`);
    this.#warnedOfToken = true;
  }

  // The life of a connection: open → greet → connected → lost → retry → open. Only #stop ends it.

  async #open() {
    this._platform.clearTimeout(this.#timer);
    if (!this.#closeConnection()) return;
    const attempt = (this.#attempt = {});
    const sse = this.#blocked >= BLOCKED_AFTER && this.#wanted.length > 0;
    this.#set("connecting", { transport: sse ? "sse" : "websocket" });
    try {
      const token = await this.#token.get();
      const tokens = Promise.all(this.#wanted.map((wanted) => this.#tokenOf(wanted)));
      await within(this._platform, SLOW_TOKEN_MS, tokens).catch(() => {}); // a channel whose token fails, or takes long, comes later
      if (attempt === this.#attempt) this.#connection = sse ? this.#openStream(token) : this.#openSocket(token);
    } catch (error) {
      if (attempt === this.#attempt) this.#retry(error instanceof GatewayError ? error.code : "lost", error.message);
    }
  }

  /** A subscription's token; undefined if there is none, or none now. */
  #tokenOf({ _token }) {
    return _token.get().catch((error) => this._warnOfToken(error));
  }

  #openSocket(token) {
    const { WebSocket } = this._platform;
    const connection = new SocketConnection(this._platform, new WebSocket(this.#socketUrl), this.#options.timeoutMs, {
      opened: () => this.#greet(token),
      pushed: (push) => this.#pushed(push),
      ended: (...why) => this.#lost(connection, ...why),
    });
    return connection;
  }

  #openStream(token) {
    const { EventSource } = this._platform;
    const url = this.#streamUrl(token);
    const connection = new StreamConnection(this._platform, new EventSource(url), this.#options.timeoutMs, {
      opened: (channels, tops, pingMs) => this.#streamOpened(channels, tops, pingMs),
      pushed: (push) => this.#pushed(push),
      expiring: (channel) => this.#renewStream(channel),
      refused: (error, channel) => this.#streamRefused(error, channel),
      ended: (code, reason) => (code === "status" ? this.#askForRefusal(connection, url, reason) : this.#lost(connection, code, reason)),
    });
    return connection;
  }

  get #socketUrl() {
    const url = new URL("connection/websocket", this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    return url;
  }

  #streamUrl(token) {
    const url = new URL("sse", this.#base);
    const ready = this.#wanted.filter(({ _token }) => _token.ready);
    if (!ready.length) throw new GatewayError("token", "no channel has a token yet");
    const positions = ready.map(({ position }) => (position ? `${position.epoch}:${position.offset}` : "-"));
    for (const { channel, _token } of ready) {
      url.searchParams.append("channel", channel);
      if (_token.value) url.searchParams.append("subscription_token", _token.value);
    }
    if (positions.some((position) => position !== "-")) url.searchParams.set("last_event_id", positions.join(","));
    if (token) url.searchParams.set("token", token);
    url.searchParams.set("pings", "1");
    return url;
  }

  get #wanted() {
    return [...this.#subscriptions.values()].filter(({ state }) => state !== "refused");
  }

  /** Connect and all subscribes in one frame: one round trip until they are live. */
  #greet(token) {
    const serverSide = this.#wanted.filter(({ _serverSide }) => _serverSide);
    const subs = Object.fromEntries(serverSide.map(({ channel, _recovery }) => [channel, _recovery]));
    const connected = (reply) => this.#connected(reply);
    const connect = command("connect", { token, name: NAME, subs }, connected, (error) => this.#refused(error));
    const ready = this.#wanted.filter(({ _serverSide, _token }) => !_serverSide && _token.ready);
    this.#subscribe(ready, connect);
  }

  #connected({ client = null, ping = 0, pong = false, ttl = 0, subs = {} }) {
    const connection = this.#connection;
    this.#client = client;
    connection.answersPings = pong;
    connection.expectPings(ping * 1000, this.#options.silenceMs);
    this.#blocked = 0;
    this.#scheduleRefresh(this.#token, ttl, "refresh", {});
    this.#becomeConnected();
    for (const [channel, result] of Object.entries(subs)) {
      if (connection.ended) return; // a listener disconnected
      // The page's own subscribe took its place, and was ended: it is made again below.
      if (connection.left.has(channel)) this.#hold(this.#subscriptions.get(channel) ?? new Subscription(this, channel));
      else this.#subscribedByServer(channel, result);
    }
    connection.left = null;
    this.#requestWaiting();
  }

  /** Those that were asked for after the first frame had left, or whose token was late. */
  #requestWaiting() {
    for (const wanted of this.#wanted) if (wanted.state === "waiting" && this.#isOpen) this.#requestSubscription(wanted);
  }

  #streamOpened(channels, tops, pingMs) {
    const connection = this.#connection;
    connection.expectPings(pingMs, this.#options.silenceMs);
    this.#becomeConnected();
    for (const [channel, result] of Object.entries(channels)) {
      if (connection.ended) return; // a listener disconnected
      const subscription = this.#subscriptions.get(channel);
      const gapFollows = Boolean(subscription?.position) && !result.recovered;
      subscription?._begin({ ...result, top: tops[channel], recoverable: Boolean(result.epoch), gapFollows });
    }
    this.#requestWaiting();
  }

  /** What waited is sent first: a listener of the state may send more. */
  #becomeConnected() {
    this.#steadyFrom = this._platform.now() + STEADY_MS;
    this.#warnedOfToken = false;
    this.#connection.send(this.#takeQueued());
    this.#set("connected", { transport: this.transport });
  }

  /** The gateway refused the connection itself. */
  #refused(error) {
    if (isFinal(error.code) || isWorthRetrying(error, this.#token)) this.#connection?.end(error.code, error.message, error.hint);
    else this.#stop("refused", error);
  }

  /** With a channel, its subscription token is the cause: the other channels continue without it. */
  #streamRefused(error, channel) {
    const subscription = this.#subscriptions.get(channel);
    if (!subscription) return this.#refused(error);
    if (isWorthRetrying(error, subscription._token)) return this.#reconnect(this.#connection, error.code, error.message);
    subscription._refuse(error);
    this.#reopen();
  }

  /** A request for the same as the stream shows the gateway's refusal, where that names a cause that no later attempt changes. */
  async #askForRefusal(connection, url, reason) {
    const refusal = this.#warnedOfOrigin ? null : await this.#request(url, {}, refusalIn).catch(() => null);
    if (connection !== this.#connection) return;
    const error = refusal?.code && new GatewayError(refusal.code, refusal.error);
    if (!error || isWorthRetrying(error)) this.#lost(connection, "lost", reason);
    else if (this.#subscriptions.has(refusal.channel)) this.#streamRefused(error, refusal.channel);
    else this.#stop("refused", error);
  }

  /** The stream ends soon, together with a token: another stream continues after its last event. */
  async #renewStream(channel) {
    const connection = this.#connection;
    const token = this.#subscriptions.get(channel)?._token ?? this.#token;
    if (token.discard() && (await token.get().catch(() => undefined)) && connection === this.#connection) this.#open();
  }

  #lost(connection, code, reason, hint) {
    if (connection !== this.#connection) return;
    if (code === 3005) this.#token.discard();
    if (isFinal(code) && !this.#mayReplaceTokens(code)) this.#stop("refused", new GatewayError(code, reason, false, hint));
    else this.#reconnect(connection, code, reason);
  }

  /** The close code does not say whose token was refused, the client's or a channel's, so all that come from functions are replaced. */
  #mayReplaceTokens(code) {
    const refused = code === INVALID_TOKEN || (code === NO_TOKEN && !this.#token.value);
    if (!refused || ++this.#refusedTokens > REFUSED_TOKENS_MOST) return false;
    const tokens = [this.#token, ...this.#wanted.map(({ _token }) => _token)];
    return tokens.filter((token) => token.discard()).length > 0;
  }

  #reconnect(connection, code, reason) {
    if (connection.transport === "sse") this.#blocked = BLOCKED_AFTER - 1;
    else if (!connection.opened || (code === "timeout" && !connection.answered)) this.#suspectBlocking(connection.opened);
    this.#retry(code, reason);
  }

  /**
   * A WebSocket that does not open is blocked only if the gateway answers HTTP; while it is down, event streams would not help. One that
   * opened, and through which nothing came, may be of a gateway that waits for Valkey: that has to say that it is ready.
   */
  async #suspectBlocking(opened) {
    if (!this._platform.EventSource) return;
    const url = new URL("health/ready", this.#base);
    const answers = ({ ok, type }) => ok || type === "opaque";
    const isThere = await this.#request(url, { mode: opened ? "cors" : "no-cors" }, answers).catch(() => false);
    if (isThere && this.state !== "connected") this.#blocked += 1;
    if (isThere && !opened) await this.#warnOfOrigin(url);
  }

  /** Of a page whose origin the gateway does not admit, a browser shows the script no more than that the connection broke off. */
  async #warnOfOrigin(url) {
    const { origin, protocol } = globalThis.location ?? this.#base;
    if (this.#warnedOfOrigin || origin === this.#base.origin) return;
    const health = await this.#request(url, {}, (response) => response.json()).catch(() => null);
    if (!health?.refused || this.#warnedOfOrigin) return;
    this.#warnedOfOrigin = true;
    const page = protocol === "file:" ? 'that was opened as a file, whose origin is "null"; open it from a web server' : `of ${origin}`;
    this._platform.console.warn(`gateway.js: the gateway admits no page ${page}: ${health.refused}`);
  }

  #retry(code, reason) {
    if (this._platform.now() > this.#steadyFrom) this.#failures = this.#refusedTokens = 0;
    if (!this.#closeConnection()) return;
    const retryMs = this._backoff(this.#failures++);
    this.#timer = this._platform.setTimeout(() => this.#open(), retryMs);
    if (code === "token" && !this._hasListener("state")) this._warnOfToken({ message: reason });
    this.#set("waiting", { code, reason, retryMs });
  }

  /** A random share of the whole time: clients that lost their connections together do not come back together. */
  _backoff(failures) {
    const { backoffMs, longestBackoffMs } = this.#options;
    return this._platform.random() * Math.min(longestBackoffMs, backoffMs * 2 ** failures);
  }

  #stop(state, error) {
    this._platform.clearTimeout(this.#timer);
    this.#attempt = null;
    this.#stopReason = error;
    this.state = state; // listeners of the subscriptions are called before its own, and may connect again
    this.#closeConnection();
    for (const { reject } of this.#takeQueued()) reject(error);
    if (state === "refused") this.#refuseAll(error);
    if (!this.#attempt && error === this.#stopReason) this.#set(state, { code: error.code, reason: error.message });
  }

  #refuseAll({ code, message, hint }) {
    const wanted = this.#wanted;
    this._warn("the connection of this page", [this, ...wanted], code, message, hint);
    for (const subscription of wanted) if (!this.#attempt) subscription._set("refused", code, message);
  }

  /** Returns false where a listener that is notified of it disconnected, or connected again: the caller's business is over then. */
  #closeConnection() {
    const attempt = this.#attempt;
    this.#token.cancelRenewal();
    this.#steadyFrom = Infinity;
    this.#client = null;
    const connection = this.#connection;
    this.#connection = null;
    connection?.end();
    for (const wanted of this.#wanted) wanted._set("waiting");
    return attempt === this.#attempt;
  }

  #set(state, detail) {
    this.state = state;
    this._emit("state", { state, ...detail });
  }

  #wake = () => {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.state === "waiting") this.#open();
    else if (this.state === "connected") this.#connection.check();
  };

  /** Shows the server a new token on the same connection, each time before the last one expires. `stale()`: it is not needed any more. */
  #scheduleRefresh(token, ttl, method, request, stale = () => false) {
    const connection = this.#connection;
    token.renew(ttl, (renewed) => {
      const again = (ttl) => connection.ended || stale() || this.#scheduleRefresh(token, ttl, method, request, stale);
      connection.send([command(method, { ...request, token: renewed }, ({ ttl }) => again(ttl), () => again(RENEW_MS / 1000))]);
    });
  }

  // Channels.

  #requestSubscription(subscription) {
    if (!subscription._token.ready) this.#fetchToken(subscription);
    else if (this.transport === "sse") this.#reopen();
    else this.#subscribe([subscription]);
  }

  /** Sends the commands that subscribe, after those in `before`. A listener that is notified may end any of these channels, or disconnect. */
  #subscribe(subscriptions, ...before) {
    const connection = this.#connection;
    for (const each of subscriptions) if (!connection.ended) each._set("catching up");
    if (connection.ended) return;
    connection.greeted = true;
    const wanted = subscriptions.filter(({ state }) => state === "catching up");
    connection.send([...before, ...wanted.map((each) => this.#subscribeCommand(each))]);
  }

  async #fetchToken(subscription) {
    const connection = this.#connection;
    await this.#tokenOf(subscription);
    if (connection !== this.#connection || subscription.state !== "waiting") return;
    if (subscription._token.ready) this.#requestSubscription(subscription);
    else this.#resubscribe(subscription);
  }

  /** A stream is opened with its channels, so other channels need another stream: one for all changes of one turn. */
  #reopen() {
    const attempt = this.#attempt;
    if (attempt) queueMicrotask(() => attempt === this.#attempt && this.#open());
  }

  #subscribeCommand(subscription) {
    const { channel, _recovery, _token, _joinLeave } = subscription;
    const connection = this.#connection;
    const stale = () => connection !== this.#connection || this.#subscriptions.get(channel) !== subscription;
    const begin = (result) => {
      if (stale()) return;
      if (subscription._offer) this.#hold(subscription);
      this.#scheduleRefresh(_token, result.ttl, "sub_refresh", { channel }, stale);
      subscription._begin(result);
    };
    const fail = (error) => {
      if (stale()) return;
      if (error.code === "timeout") connection.end("timeout", error.message);
      else if (isWorthRetrying(error, _token)) this.#resubscribe(subscription);
      else if (subscription._offer) this.#beginByServer(subscription, subscription._offer);
      else subscription._refuse(error);
    };
    const token = _token.value || undefined;
    return command("subscribe", { channel, ..._recovery, token, join_leave: _joinLeave }, begin, fail);
  }

  #resubscribe(subscription) {
    subscription._set("waiting");
    if (subscription.state !== "waiting" || !this.#isOpen) return; // a listener ended it, or disconnected
    subscription._after(this._backoff(subscription._failures++), () => this.#requestSubscription(subscription));
  }

  /** Where the page's own subscribe is under way, that takes the place of the server's, unless it is refused. */
  #subscribedByServer(channel, result) {
    const subscription = this.#subscriptions.get(channel) ?? new Subscription(this, channel);
    if (subscription._isAsked) subscription._offer = { ...result, publications: [...(result.publications ?? [])] };
    else this.#beginByServer(subscription, result);
  }

  #beginByServer(subscription, result) {
    this.#hold(subscription);
    subscription._serverSide = true;
    subscription._begin(result);
  }

  /** The server subscribes this client to the channel on its own: that outlives the page's unsubscribe(). */
  #hold(subscription) {
    if (!subscription._isHeld) subscription._references += 1;
    subscription._isHeld = true;
    this.#subscriptions.set(subscription.channel, subscription);
  }

  #pushed({ channel, pub, gap, join, leave, unsubscribe, subscribe }) {
    const subscription = this.#subscriptions.get(channel);
    if (pub) subscription?._receive(pub);
    else if (gap) subscription?._skipTo(gap.epoch, gap.offset);
    else if (join) subscription?._emit("join", { channel, info: join.info });
    else if (leave) subscription?._emit("leave", { channel, info: leave.info });
    else if (subscribe) this.#subscribedByServer(channel, subscribe);
    else if (unsubscribe && subscription) this.#unsubscribedByServer(subscription, unsubscribe);
  }

  /** What has not begun is not meant: the server ended the subscription that the channel had before, or the one that it made itself. */
  #unsubscribedByServer(subscription, { code, reason }) {
    subscription._offer = null;
    if (!subscription._hasBegun) return;
    if (code === 2501) subscription._token.discard();
    if (code >= 2500) return this.#resubscribe(subscription);
    if (subscription._isHeld) subscription._references -= 1; // the server follows it for the page no more
    subscription._isHeld = false;
    subscription._refuse(new GatewayError(code, reason));
    if (subscription._references <= 0 && subscription.state === "refused") this.#endSubscription(subscription);
  }
}

/** The gateway's URL, which ends with a slash. Null if it is not known: relative without a page, or absent where this module is a file. */
function baseOf(url) {
  const page = globalThis.location?.href;
  if (url && !page && !/^https?:/.test(url)) return null;
  const here = import.meta.url; // a bundler would look for a file where it sees this as the second argument of URL
  const base = url ? new URL(url, page) : new URL("..", here);
  if (!base.protocol.startsWith("http")) return null;
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return base;
}
