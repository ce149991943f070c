// The store of those who are present in a channel. stores.js describes it.

import { Store, follow } from "./store.js";

const PRESENCE_MS = 120_000; // until presence is read again
const PRESENCE_CLIENTS = 50; // with more of them, that much longer

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
