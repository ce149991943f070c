// One review with its responses and reactions. It has a channel of its own, which the list follows.

import { attempt, avatar, h, icon, mark, stars } from "./dom.js";
import { Reactions } from "./reactions.js";
import { time } from "./time.js";

export class Review {
  #town;
  #fault = h("p", { class: "fault", role: "alert" });
  #responses = h("ol", { class: "responses" });
  #head;

  constructor(town, review) {
    this.#town = town;
    this.id = review.id;
    this.rating = review.rating;
    this.reactions = new Reactions(town, `review:${review.id}`, this.#fault);
    this.#head = h("div", { class: "card-head" }, avatar(review.author), h("strong", {}, review.author), stars(review.rating), time(review.created_at));
    const attributes = { class: "card", "data-testid": "review", "data-id": review.id, tabindex: "-1" };
    const text = h("p", { class: "text" }, review.text);
    const foot = h("div", { class: "card-foot" }, this.reactions.element, this.#storyButton());
    this.element = h("li", attributes, this.#head, text, foot, this.#responses, this.#form(review), this.#fault);
    this.update(review);
  }

  #storyButton() {
    const attributes = { type: "button", class: "quiet small", "data-testid": "story", "aria-haspopup": "dialog" };
    return h("button", { ...attributes, on: { click: () => this.#town.story.open(this.id) } }, icon("story"), "Story");
  }

  #form(review) {
    const label = `Respond to ${review.author}`;
    const input = h("input", { class: "response-input", maxlength: "1000", placeholder: `${label} …`, "aria-label": label, "data-testid": "response-text" });
    const send = h("button", { class: "quiet square", "aria-label": "Send the response", title: "Send", "data-testid": "response-send" }, icon("send"));
    const submit = async (event) => {
      event.preventDefault();
      if (!input.value.trim()) return input.focus();
      await attempt(this.#fault, async () => {
        this.#put(await this.#town.api.respond(this.id, input.value.trim()));
        input.value = "";
      }, send);
      input.focus();
    };
    return h("form", { class: "respond", autocomplete: "off", on: { submit } }, input, send);
  }

  update(review) {
    this.reactions.show(review.reactions, review.mine);
    for (const response of review.responses ?? []) this.#put(response);
  }

  take({ data, recovered }) {
    if (data.type === "reaction") this.reactions.take(data, recovered);
    if (data.type === "response.created") this.#put(data.response, recovered);
  }

  mark(recovered) {
    mark(this.element, this.#head, recovered);
  }

  /** Inserts a response, oldest first. `recovered` is undefined for one that the API answered, which is not marked as new. */
  #put(response, recovered) {
    const rows = [...this.#responses.children];
    if (rows.some((row) => Number(row.dataset.id) === response.id)) return;
    const head = h("div", { class: "card-head" }, h("strong", {}, response.author), time(response.created_at));
    const body = h("div", {}, head, h("p", { class: "text" }, response.text));
    const row = h("li", { class: "response", "data-testid": "response", "data-id": response.id }, avatar(response.author), body);
    this.#responses.insertBefore(row, rows.find((other) => Number(other.dataset.id) > response.id) ?? null);
    if (recovered !== undefined) mark(row, head, recovered);
  }
}
