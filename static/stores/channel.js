// The store of a channel: what is shown of it, and when its history is read. stores.js describes it.

import { readHistory } from "./history.js";
import { Shown } from "./shown.js";
import { Store, follow } from "./store.js";

export class ChannelStore extends Store {
  #options;
  #shown;
  #subscription;
  #wasLive = false;
  #wanted = false; // history has to be read once the channel is live, and has not been yet
  #reading = null; // a new object for each read under way, so that the answer to an earlier one is ignored
  #newest = 0; // the offset of the last publication that arrived

  constructor(gateway, channel, { history = 0, limit = 100, since, token, joinLeave } = {}) {
    super(gateway, { publications: [], state: "waiting", code: undefined, reason: undefined, more: false, gaps: 0, error: null });
    this.channel = channel;
    this.#options = { since, token, joinLeave };
    this.#shown = new Shown(Math.max(limit, history));
    this.history = history;
  }

  publish = (data) => this.gateway.publish(this.channel, data);

  older = async () => {
    const first = this.#shown.oldest;
    const page = this.history || 20;
    this.#shown.extend(page);
    // A channel that does not recover has no position; no epoch agrees with any.
    await this.#read(page, first && { epoch: this.#subscription.position?.epoch ?? "", offset: first.offset });
  };

  /** It begins anew each time: what was published while nothing was followed would be missing in the middle. */
  _start() {
    this.#shown.clear();
    this.#newest = 0;
    this.#wanted = this.history > 0;
    this.#show({ more: false, gaps: 0, error: null });
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

  #show(changes) {
    this._update({ publications: this.#shown.publications, ...changes });
  }

  #changed({ state, code, reason }) {
    const isBack = state === "live" && this.snapshot.state !== "live" && this.#wasLive;
    this.#wasLive ||= state === "live";
    this._update({ state, code, reason });
    // A channel that does not recover brings nothing that was missed, and no gap.
    if (isBack && this.history > 0 && !this.#subscription.position) this.#readAnew();
    else this.#readWanted();
  }

  #readWanted() {
    if (this.#wanted && !this.#reading && this.snapshot.state === "live") this.#read(this.history);
  }

  #take(publication) {
    const { offset } = publication;
    if (offset < this.#newest) this.#gap(); // offsets began anew: of a channel that does not recover, no event announces that
    this.#newest = offset ?? this.#newest;
    const taken = { ...this.#shown.keyed(publication), recovered: publication.recovered && this.#wasLive };
    const dropped = this.#shown.append(taken);
    this.#show({ more: this.snapshot.more || this.#canReturn(dropped) });
    this.arrived(taken);
  }

  /** Where the page asked for history, those that were dropped can be had again. */
  #canReturn(dropped) {
    return dropped && this.history > 0;
  }

  /** What is shown may lack publications in its middle; so it is replaced by what history holds, where the page asked for history. */
  #gap() {
    this.#shown.breakOff();
    this.#readAnew({ gaps: this.snapshot.gaps + 1 });
  }

  #readAnew(changes) {
    this.#newest = 0;
    this.#reading = null; // the answer to a read from before the gap may be of another epoch
    this.#wanted = this.history > 0;
    if (this.#wanted) this.#shown.clear();
    this.#show({ ...changes, more: false });
    this.#readWanted();
  }

  async #read(limit, since) {
    const reading = (this.#reading = {});
    const token = this.#subscription?._token?.value;
    try {
      const { publications, epoch } = await readHistory(this.gateway, this.channel, { limit, since, token });
      if (reading !== this.#reading) return;
      this.#reading = null;
      if (this.#isOfAnother(epoch)) return;
      this.#wanted = false;
      this.#add(publications, limit);
    } catch (error) {
      if (reading !== this.#reading) return;
      this.#reading = null;
      this._failed(error, () => this.#readWanted());
    }
  }

  /** Whether history began anew, and the gap that announces that is still to come: what is shown is of before. */
  #isOfAnother(epoch) {
    const { position } = this.#subscription ?? {};
    return Boolean(position) && position.epoch !== epoch;
  }

  /** `found` is newest first. */
  #add(found, limit) {
    const dropped = this.#shown.insert(found.map((each) => ({ channel: this.channel, recovered: false, ...each })));
    const isMore = found.length === limit && found.at(-1).offset > 1;
    this.#show({ more: isMore || this.#canReturn(dropped), error: null });
  }
}
