// The history of one review: all publications of its channel, as a timeline that grows while it is open.

import { $, attempt, h, icon, stars } from "./dom.js";
import { time } from "./time.js";

export class Story {
  #town;
  #review = null;
  #top = 0; // offset of the last event that is shown

  constructor(town) {
    this.#town = town;
    $("story-close").addEventListener("click", () => $("story").close());
    $("story").addEventListener("close", () => (this.#review = null));
    $("story").addEventListener("click", ({ target }) => target === $("story") && $("story").close()); // its backdrop
  }

  async open(review) {
    this.#review = review;
    this.#top = 0;
    $("story-list").replaceChildren();
    if (!$("story").open) $("story").showModal();
    await attempt($("story-fault"), async () => {
      const { events } = await this.#town.api.history(review);
      if (this.#review === review) for (const event of events) this.#add(event);
    });
  }

  take(review, event) {
    if (review === this.#review) this.#add(event);
  }

  /** A publication that arrives before the API's answer may be in the answer too; its offset shows whether it was added already. */
  #add({ offset, data }) {
    if (offset <= this.#top) return;
    this.#top = offset;
    const told = telling(data);
    if (told) $("story-list").append(h("li", {}, h("span", { class: "offset" }, `#${offset}`), ...told));
  }
}

function telling({ type, review, response, user, reaction }) {
  if (type === "review.created") return told(review, "wrote the review", stars(review.rating));
  if (type === "response.created") return told(response, "responded");
  if (type !== "reaction") return null;
  const does = reaction ? ["reacted with ", icon(reaction), h("span", { class: "unseen" }, reaction)] : ["took the reaction back"];
  return [h("p", { class: "does" }, h("strong", {}, user), " ", ...does)];
}

function told({ author, text, created_at }, does, extra) {
  return [h("p", { class: "does" }, h("strong", {}, author), ` ${does} `, extra, " ", time(created_at)), h("p", { class: "text" }, text)];
}
