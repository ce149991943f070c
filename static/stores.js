/**
 * What a page shows of a channel, of the user's inbox and of those who are present, as values that change: the custom elements
 * (elements.js) and the hooks for React (react.js) draw these, and any other framework may.
 *
 *     import { ChannelStore } from "/static/stores.js";
 *     const posts = new ChannelStore(gateway, "posts:tech", { history: 20 });
 *     const stop = posts.subscribe(() => draw(posts.snapshot));
 *
 * A store follows its channel from the first subscribe() until the last function that subscribe() returned was called. `snapshot`
 * is a new object whenever something changed, and is never changed itself. `arrived`, where the page sets it, is called with each
 * publication or notification that arrives while the store follows.
 *
 * new ChannelStore(gateway, channel, { history, limit, since, token, joinLeave })
 *   history    0: the number of older publications that are read from the channel's history at first, and again after a gap
 *   limit      100: how many publications the snapshot holds; the oldest are dropped first
 *   since, token, joinLeave    as of gateway.subscribe()
 *   snapshot   { publications, state, code, reason, more, gaps, error }
 *              publications are those of gateway.js, oldest first, each with a `key` that no other has; `recovered` is true only for
 *              one that arrived late; state, code and reason are the subscription's; more: older() would find further ones; gaps: how
 *              often history no longer held what was missed; error: of the last read of history, null if it succeeded
 *   older()    → promise; adds a page of older publications from history
 *   publish(data)  → promise
 *
 * new InboxStore(gateway, { user, size, listing })
 *   user       the user's id: with it, the inbox arrives also where only event streams get through
 *   size       20: notifications of a page
 *   listing    true: the list is read and kept up to date; false: only the number of unread notifications is, as for a closed panel
 *   snapshot   { unread, notifications, more, error }: unread is null and notifications is null until they are known
 *   show(listing)      begins or ends keeping the list up to date
 *   older()    → promise; adds a page
 *   read(marks)        → promise; as gateway.inbox.read()
 *
 * new PresenceStore(gateway, channel, { token })     needs a channel whose rules allow presence and join and leave to be seen
 *   snapshot   { clients, users, state, error }: clients as of presence(), users are their ids, each once, in the order of arrival
 */

const INBOX = "notifications:";
const LISTED_MOST = 200; // notifications of a list, which is read anew whenever one changes; an answer of the gateway has up to 100
const HISTORY_MOST = 300; // publications of one answer over WebSocket
const CUT_CHARACTERS = 40_000; // the gateway ends an answer at about 256 KiB, where a character is up to six bytes
const PRESENCE_MS = 120_000; // until presence is read again
const PRESENCE_CLIENTS = 50; // with more of them, that much longer

/** Calls a listener, whose error harms neither the others nor what the store is doing. */
function guarded(listener) {
  try {
    listener();
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

class Store {
  arrived = () => {};
  #listeners = new Set();
  #snapshot;
  #stop;
  #again; // the timer
  #failures = 0; // of reads, since one succeeded

  constructor(gateway, snapshot) {
    this.gateway = gateway;
    this.#snapshot = snapshot;
  }

  get snapshot() {
    return this.#snapshot;
  }

  getSnapshot = () => this.#snapshot;

  /** Calls `listener` after each change. Returns a function that removes it. */
  subscribe = (listener) => {
    const added = { listener };
    this.#listeners.add(added);
    if (this.#listeners.size === 1) this.#stop = this._start();
    return () => {
      if (this.#listeners.delete(added) && !this.#listeners.size) this.#stop();
    };
  };

  get _followed() {
    return this.#listeners.size > 0;
  }

  _update(changes) {
    if (changes.error === null) this.#failures = 0;
    if (Object.entries(changes).every(([name, value]) => this.#snapshot[name] === value)) return;
    this.#snapshot = { ...this.#snapshot, ...changes };
    for (const added of [...this.#listeners]) if (this.#listeners.has(added)) guarded(added.listener);
  }

  /** Shows the error of a read and calls `read` a little later, if it may pass by itself: nothing else may happen that would. */
  _failed(error, read) {
    this._update({ error });
    const { clearTimeout, setTimeout } = this.gateway._platform;
    clearTimeout(this.#again);
    if (this.gateway._mayPass(error)) this.#again = setTimeout(() => this._followed && read(), this.gateway._backoff(this.#failures++));
  }
}

/** Subscribes, and passes the events on. A subscribe that throws becomes a state like a refusal by the gateway. Returns what ends it. */
function follow(store, channel, options, handlers) {
  let subscription;
  try {
    subscription = store.gateway.subscribe(channel, options);
  } catch (error) {
    store._update({ state: "refused", code: error.code, reason: error.message, error });
    return { subscription: null, stop: () => {} };
  }
  const stops = Object.entries(handlers).map(([event, handler]) => subscription.on(event, handler));
  const stop = () => {
    for (const each of stops) each();
    if (subscription.state !== "closed") subscription.unsubscribe();
  };
  return { subscription, stop };
}

/** An event stream only receives, so there history is read over plain HTTP, which needs the subscription's token. */
function readHistory(gateway, channel, { limit, since, token }) {
  const query = new URLSearchParams({ channel, limit, reverse: 1 });
  if (since) query.set("since", `${since.epoch}:${since.offset}`);
  if (token) query.set("subscription_token", token);
  const overHttp = () => gateway._fetch(`history?${query}`);
  if (gateway.transport === "sse") return overHttp();
  const read = gateway.history(channel, { limit, since, reverse: true });
  return read.catch((error) => (error.code === "sse" ? overHttp() : Promise.reject(error))); // it waited for a connection
}

/** As many of the newest as `limit` says, where history holds so many, and their epoch. */
async function readWhole(gateway, channel, { limit, since, token }) {
  const found = [];
  for (;;) {
    const wanted = limit - found.length;
    const { publications, epoch } = await readHistory(gateway, channel, { limit: wanted, since, token });
    found.push(...publications);
    const oldest = publications.at(-1)?.offset ?? 0;
    const isCut = publications.length >= HISTORY_MOST || JSON.stringify(publications).length >= CUT_CHARACTERS;
    if (oldest <= 1 || found.length >= limit || !isCut) return { found, epoch };
    since = { epoch, offset: oldest };
  }
}

/** The last ones, at most so many. A slice from -0 on would be all of them. */
const newest = (publications, limit) => (limit > 0 ? publications.slice(-limit) : []);

export class ChannelStore extends Store {
  #options;
  #limit;
  #subscription;
  #wasLive = false;
  #wanted = false; // history has to be read when the channel is live
  #reading; // a new object for each read, so that the answer to an earlier one is ignored
  #lastBeforeGap; // the key of the newest publication from before the last gap
  #generation = 0; // of offsets: a gap may begin another epoch, in which they are used again
  #newest = 0; // the offset of the last publication that arrived
  #count = 0;

  constructor(gateway, channel, { history = 0, limit = 100, since, token, joinLeave } = {}) {
    super(gateway, { publications: [], state: "waiting", code: undefined, reason: undefined, more: false, gaps: 0, error: null });
    this.channel = channel;
    this.#options = { since, token, joinLeave };
    this.#limit = Math.max(limit, history);
    this.history = history;
  }

  publish = (data) => this.gateway.publish(this.channel, data);

  older = async () => {
    const { publications } = this.snapshot;
    const first = publications.find(({ offset }) => offset);
    const page = this.history || 20;
    this.#limit = Math.max(this.#limit, publications.length + page);
    // A channel that does not recover has no position; no epoch agrees with any.
    await this.#read(page, first && { epoch: this.#subscription.position?.epoch ?? "", offset: first.offset });
  };

  /** It begins anew each time: what was published while nothing was followed would be missing in the middle. */
  _start() {
    this.#generation += 1;
    this.#newest = 0;
    this.#wanted = this.history > 0;
    this._update({ publications: [], more: false, gaps: 0, error: null });
    const { subscription, stop } = follow(this, this.channel, this.#options, {
      publication: (publication) => this.#take(publication),
      gap: () => this.#gap(),
      state: (event) => this.#changed(event),
    });
    this.#subscription = subscription;
    if (subscription) this.#changed(subscription);
    return () => {
      this.#reading = null;
      this.#wasLive = false;
      stop();
    };
  }

  #changed({ state, code, reason }) {
    this.#wasLive ||= state === "live";
    this._update({ state, code, reason });
    this.#readWanted();
  }

  #readWanted() {
    if (!this.#wanted || this.snapshot.state !== "live") return;
    this.#wanted = false;
    this.#read(this.history);
  }

  #take(publication) {
    const { offset } = publication;
    if (offset < this.#newest) this.#gap(); // offsets began anew: of a channel that does not recover, no event announces that
    this.#newest = offset ?? this.#newest;
    const { publications, more } = this.snapshot;
    const known = publications.findLast(({ offset }) => offset)?.offset ?? 0;
    const taken = { ...this.#keyed(publication), recovered: publication.recovered && this.#wasLive };
    const isShown = offset && offset <= known; // history brought it already
    if (!isShown) this.#hold([...publications, taken], more);
    this.arrived(taken);
  }

  /** The oldest are dropped; where the page asked for history, they can be had again. */
  #hold(publications, more, changes) {
    const held = newest(publications, this.#limit);
    const dropped = this.history > 0 && publications.length > held.length;
    this._update({ publications: held, more: more || dropped, ...changes });
  }

  #keyed(publication) {
    const { offset } = publication;
    return { ...publication, key: offset ? `${this.#generation}-${offset}` : `e${++this.#count}` };
  }

  /** What is shown may lack publications in its middle; so it is replaced by what history holds, where the page asked for history. */
  #gap() {
    this.#generation += 1;
    this.#newest = 0;
    this.#reading = null; // the answer to a read from before the gap may be of another epoch
    const { gaps, publications } = this.snapshot;
    this.#lastBeforeGap = publications.at(-1)?.key;
    // Their offsets may be of another epoch, and are not comparable with those that follow.
    const held = this.history ? [] : publications.map(({ offset, ...rest }) => rest);
    this._update({ gaps: gaps + 1, publications: held, more: false });
    if (!this.history) return;
    if (this.snapshot.state === "live") this.#read(this.history);
    else this.#wanted = true;
  }

  async #read(limit, since) {
    const reading = (this.#reading = {});
    const token = this.#subscription?._token?.value;
    try {
      const { found, epoch } = await readWhole(this.gateway, this.channel, { limit, since, token });
      const followed = this.#subscription?.position?.epoch ?? epoch;
      // Of another epoch than what is shown: the gap that announces it comes after the answer, and has history read anew.
      if (reading === this.#reading && epoch === followed) this.#add(found, limit);
    } catch (error) {
      if (reading !== this.#reading) return;
      this.#wanted ||= !since && this.history > 0; // the connection may be lost: the next one reads it
      this._failed(error, () => this.#readWanted());
    }
  }

  /** `found` is newest first. What arrived meanwhile is shown already, and what was there before a gap remains before it. */
  #add(found, limit) {
    const held = this.snapshot.publications;
    const first = held.find(({ offset }) => offset)?.offset ?? Infinity;
    const older = found.filter(({ offset }) => offset < first).reverse();
    const added = older.map((each) => ({ channel: this.channel, recovered: false, ...this.#keyed(each) }));
    const more = found.length === limit && found.at(-1).offset > 1;
    const start = held.findIndex(({ key }) => key === this.#lastBeforeGap) + 1;
    this.#hold(held.toSpliced(start, 0, ...added), more, { error: null });
  }
}

export class InboxStore extends Store {
  #user;
  #size;
  #shown; // notifications that the reader has paged to
  #listing;
  #reading = false; // the list is being read; …
  #stale = false; // … and has to be read again after that

  constructor(gateway, { user, size = 20, listing = true } = {}) {
    super(gateway, { unread: gateway.inbox.unread ?? null, notifications: null, more: false, error: null });
    this.#user = user;
    this.#size = this.#shown = size;
    this.#listing = listing;
  }

  show = (listing) => {
    this.#listing = listing;
    if (!listing) this.#shown = this.#size;
    else this.#refresh();
  };

  older = async () => {
    this.#shown = Math.min(LISTED_MOST, this.#shown + this.#size);
    await this.#refresh();
  };

  read = async (marks) => {
    await this.gateway.inbox.read(marks);
    this.#refresh();
  };

  _start() {
    const own = (act) => (event) => event.channel.startsWith(INBOX) && act(event);
    const stop = this.gateway
      .on("unread", ({ unread }) => this.#count(unread))
      .on("publication", own((event) => this.#arrived(event)))
      .on("gap", own(() => this.#refresh()))
      .on("state", ({ state }) => state === "connected" && this.#refresh());
    const followed = this.#user && follow(this, INBOX + this.#user, {}, {});
    this._update({ unread: this.gateway.inbox.unread });
    this.#refresh();
    return () => {
      stop();
      followed?.stop();
    };
  }

  #count(unread) {
    this._update({ unread });
    this.#refresh();
  }

  /** Only notifications have an id; what else is published in an inbox is not for the list. */
  #arrived(event) {
    if (event.data?.id === undefined) return;
    this.arrived(event);
    this.#refresh();
  }

  /** Only the gateway knows what is read, so the snapshot has what it answered last. One read at a time, and one more if something changed. */
  async #refresh() {
    if (!this.#listing || !this._followed || this.gateway.state !== "connected") return;
    this.#stale = this.#reading;
    if (this.#reading) return;
    this.#reading = true;
    try {
      const { notifications, next, unread } = await this.#listed();
      this._update({ notifications, unread, more: Boolean(next) && notifications.length < LISTED_MOST, error: null });
    } catch (error) {
      this._failed(error, () => this.#refresh());
    }
    this.#reading = false;
    if (this.#stale) await this.#refresh();
  }

  /** As many as are shown, where there are so many: an answer of the gateway may be shorter than its limit. */
  async #listed() {
    const [wanted, notifications] = [Math.min(this.#shown, LISTED_MOST), []];
    for (let before; ; ) {
      const page = await this.gateway.inbox.list({ limit: wanted - notifications.length, before });
      notifications.push(...page.notifications);
      before = page.next;
      if (!before || notifications.length >= wanted) return { ...page, notifications };
    }
  }
}

export class PresenceStore extends Store {
  #channel;
  #token;
  #clients = new Map(); // client id → what presence() has of it
  #moves = null; // joins and leaves since presence was asked for, which its answer may lack
  #subscription;
  #timer;

  constructor(gateway, channel, { token } = {}) {
    super(gateway, { clients: [], users: [], state: "waiting", code: undefined, reason: undefined, error: null });
    this.#channel = channel;
    this.#token = token;
  }

  _start() {
    this.#clients.clear(); // who was there when it was last followed
    this.#show(null);
    const { subscription, stop } = follow(this, this.#channel, { token: this.#token, joinLeave: true }, {
      join: ({ info }) => this.#move((clients) => clients.set(info.client, info)),
      leave: ({ info }) => this.#move((clients) => clients.delete(info.client)),
      state: (event) => this.#changed(event),
    });
    this.#subscription = subscription;
    if (subscription) this.#changed(subscription);
    return () => {
      this.#moves = null;
      this.gateway._platform.clearTimeout(this.#timer);
      stop();
    };
  }

  /**
   * Joins and leaves are not in history: each time that the channel is live again, presence is read anew. So it is now and then, since
   * some may be lost while it is live, too: those of a time when the gateway had no link to Valkey, or when this page took nothing.
   */
  #changed({ state, code, reason }) {
    this._update({ state, code, reason });
    if (state === "live") this.#read();
  }

  #readLater() {
    const { clearTimeout, setTimeout, random } = this.gateway._platform;
    const ms = PRESENCE_MS * Math.max(1, this.#clients.size / PRESENCE_CLIENTS);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.snapshot.state === "live" && this.#read(), ms * (0.5 + random() / 2));
  }

  #move(change) {
    this.#moves?.push(change);
    change(this.#clients);
    this.#show();
  }

  async #read() {
    const moves = (this.#moves = []);
    try {
      const present = await this.#subscription.presence();
      if (moves !== this.#moves) return; // it has ended, or is asked for again
      this.#clients = new Map(present.map((client) => [client.client, client]));
      for (const change of moves) change(this.#clients);
      this.#moves = null;
      this.#readLater();
      this.#show(null);
    } catch (error) {
      if (moves !== this.#moves) return;
      this.#moves = null;
      this._failed(error, () => this.snapshot.state === "live" && this.#read());
    }
  }

  #show(error = this.snapshot.error) {
    const clients = [...this.#clients.values()];
    this._update({ clients, users: [...new Set(clients.map(({ user }) => user))], error });
  }
}
