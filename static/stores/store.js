// What every store is: a snapshot, the listeners that are called when it changes, and reads that are repeated after an error.

/** Calls a listener, whose error harms neither the others nor what the store is doing. */
function guarded(listener) {
  try {
    listener();
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}

export class Store {
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
export function follow(store, channel, options, handlers) {
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
