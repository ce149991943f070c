// The store of the user's inbox: the count of what is unread, and its list while that is shown. stores.js describes it.

import { Store, follow } from "./store.js";

const INBOX = "notifications:";
const LISTED_MOST = 200; // notifications of a list, which is read anew whenever one changes; an answer of the gateway has up to 100

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
      const { notifications, next } = await this.#listed();
      const { unread } = this.gateway.inbox; // an announcement may be newer than the answer
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
