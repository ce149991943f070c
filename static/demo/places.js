// The restaurants, and the reviews of the one that is open, newest first.
//
// Only the reviews that are shown are followed, so that the page has at most REVIEWS_MOST channels of reviews, however many
// there are in town.

import { since } from "./api.js";
import { $, attempt, count, h, stars, visit } from "./dom.js";
import { Review } from "./review.js";

const REVIEWS_MOST = 30; // as many as the API answers
const BEGINNING = { epoch: "", offset: 0 }; // of a channel, whatever the epoch of its history

export class Places {
  #town;
  #subjects;
  #subject = null;
  #loading = {}; // the latest load; the answer to an earlier one is ignored
  #reloading;
  #reviews = new Map(); // id → Review

  constructor(town, subjects) {
    this.#town = town;
    this.#subjects = subjects;
    $("subjects").append(...subjects.map((subject) => this.#card(subject)));
    $("review-rating").append(...[1, 2, 3, 4, 5].map(star));
    $("review-form").addEventListener("submit", (event) => this.#send(event));
    $("review-text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("review-form").requestSubmit();
    });
  }

  #card({ id, name, kind }) {
    const attributes = { type: "button", class: "subject", "aria-pressed": "false", "data-testid": "subject", "data-id": id };
    return h("button", { ...attributes, on: { click: () => this.open(id) } }, h("strong", {}, name), h("span", { class: "soft" }, kind));
  }

  async open(id) {
    if (this.#subject !== id) this.#leave();
    this.#subject = id;
    $("subject-name").textContent = this.#subjects.find((subject) => subject.id === id)?.name ?? id;
    for (const card of $("subjects").children) {
      const chosen = card.dataset.id === id;
      card.setAttribute("aria-pressed", String(chosen));
      if (chosen) card.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    await this.#load();
  }

  /** Unfollows all channels of the place that was open. */
  #leave() {
    this.#town.line.unfollow(`reviews:${this.#subject}`);
    for (const review of [...this.#reviews.keys()]) this.#drop(review);
    this.#showScore();
    $("reviews-empty").hidden = true;
  }

  async #load(note = "") {
    const subject = this.#subject;
    const loading = (this.#loading = {});
    $("places-note").textContent = "";
    await attempt($("review-fault"), async () => {
      const { reviews, positions } = await this.#town.api.reviews(subject);
      if (loading !== this.#loading) return;
      const answered = new Set(reviews.map(({ id }) => id));
      for (const id of [...this.#reviews.keys()]) if (!answered.has(id)) this.#drop(id);
      for (const review of reviews) this.#put(review, since(positions[`review:${review.id}`]));
      this.#showScore();
      $("places-note").textContent = note;
      const start = since(positions[`reviews:${subject}`]);
      this.#town.line.follow(`reviews:${subject}`, { since: start, publication: (event) => this.#take(event), gap: this.#reload });
    });
  }

  /** Called for a gap in any of the channels: the gaps of one turn lead to one load. */
  #reload = () => {
    clearTimeout(this.#reloading);
    this.#reloading = setTimeout(() => this.#load("loaded anew: history no longer held what was missed"));
  };

  #take({ data, recovered }) {
    if (data.type !== "review.created" || this.#reviews.has(data.review.id)) return;
    this.#put(data.review);
    this.#reviews.get(data.review.id)?.mark(recovered);
    this.#town.arrived("places");
    this.#showScore();
  }

  /** Shows a review. Without a position it is a new one, whose channel is followed from its beginning. */
  #put(review, position) {
    const known = this.#reviews.get(review.id);
    const shown = known ?? this.#make(review);
    known?.update(review);
    if (known && !position) return;
    const publication = (event) => {
      shown.take(event);
      this.#town.story.take(review.id, event);
    };
    this.#town.line.follow(`review:${review.id}`, { since: position ?? BEGINNING, publication, gap: this.#reload });
    while (this.#reviews.size > REVIEWS_MOST) this.#drop(Number($("reviews").lastChild.dataset.id));
  }

  #make(review) {
    const made = new Review(this.#town, review);
    const next = [...$("reviews").children].find((element) => Number(element.dataset.id) < review.id);
    $("reviews").insertBefore(made.element, next ?? null);
    this.#reviews.set(review.id, made);
    return made;
  }

  #drop(id) {
    this.#town.line.unfollow(`review:${id}`);
    this.#reviews.get(id)?.element.remove();
    this.#reviews.delete(id);
  }

  #showScore() {
    const ratings = [...this.#reviews.values()].map(({ rating }) => rating);
    const average = ratings.reduce((sum, rating) => sum + rating, 0) / ratings.length;
    const many = ratings.length >= REVIEWS_MOST ? `the last ${REVIEWS_MOST} reviews` : count(ratings.length, "review");
    $("reviews-empty").hidden = ratings.length > 0;
    $("subject-score").replaceChildren(...(ratings.length ? [stars(Math.round(average)), ` ${average.toFixed(1)} · ${many}`] : []));
  }

  async #send(event) {
    event.preventDefault();
    const area = $("review-text");
    const subject = this.#subject;
    await attempt($("review-fault"), async () => {
      const rating = Number(new FormData($("review-form")).get("rating"));
      if (!rating) throw new Error("Choose one to five stars.");
      if (!area.value.trim()) throw new Error("Write a word or two about it.");
      const review = await this.#town.api.createReview(subject, rating, area.value.trim());
      if (subject === this.#subject) this.#put(review);
      this.#showScore();
      $("review-form").reset();
    }, event.target.querySelector(".primary"));
  }

  /** Shows a review, wherever it is: its history names its place. One that the page no longer lists is shown as its history. */
  async reveal(id) {
    if (!this.#reviews.has(id)) {
      const { events } = await this.#town.api.history(id);
      const subject = events.find(({ data }) => data.type === "review.created")?.data.review.subject;
      if (subject && subject !== this.#subject) await this.open(subject);
    }
    const review = this.#reviews.get(id);
    if (review) visit(review.element);
    else await this.#town.story.open(id);
  }
}

function star(number) {
  const input = h("input", { type: "radio", name: "rating", value: number, "aria-label": count(number, "star") });
  return h("label", { title: count(number, "star") }, input, h("span", { "aria-hidden": "true" }, "★"));
}
