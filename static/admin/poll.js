// Asks the gateway again and again, and shows a sentence while it cannot be asked.

const RETRY_MS = 3000;

export class Poll {
  #ask;
  #everyMs;
  #notice;
  #timer;
  #asking;
  #stopped = false;
  #wake = () => document.hidden || this.#settled || this.now();
  #settled = false;

  /** `ask(signal)` asks and shows the answer; 0 for `everyMs`: once, and again only while the gateway is away. `notice` shows the fault. */
  constructor(ask, { everyMs = 0, notice }) {
    this.#ask = ask;
    this.#everyMs = everyMs;
    this.#notice = notice;
    document.addEventListener("visibilitychange", this.#wake);
  }

  /** Asks at once. An answer that is still on its way is dropped. Returns whether it was answered. */
  async now() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    if (this.#stopped) return false;
    const asking = (this.#asking = new AbortController());
    try {
      await this.#ask(asking.signal);
      if (asking !== this.#asking) return false;
      this.#notice.show("");
      this.#again(this.#everyMs);
      return true;
    } catch (error) {
      if (asking !== this.#asking || error.name === "AbortError") return false;
      if (error.name !== "Error") throw error;
      this.#notice.show(error.away ? `${error.message} Trying again …` : error.message, error.away);
      this.#again(error.away ? RETRY_MS : this.#everyMs);
      return false;
    }
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#asking?.abort();
    document.removeEventListener("visibilitychange", this.#wake);
  }

  /** A page that is hidden does not ask. */
  #again(ms) {
    this.#settled = !ms;
    if (ms) this.#timer = setTimeout(() => document.hidden || this.now(), ms);
  }
}
