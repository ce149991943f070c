// The channel picker above the feed, and the form that creates one.

import { $, attempt, h, icon } from "./dom.js";

const NEW = { "aria-controls": "channel-form", "data-testid": "channel-new" };

export class Channels {
  #town;
  #open; // function that is called with the channel that was chosen
  #add = h("button", { type: "button", class: "chip add", "aria-expanded": "false", ...NEW }, icon("plus"), "New");

  constructor(town, channels, open) {
    this.#town = town;
    this.#open = open;
    this.all = [];
    $("channels").append(this.#add);
    for (const channel of channels) this.add(channel);
    this.#add.addEventListener("click", () => this.#unfold($("channel-form").hidden));
    $("channel-cancel").addEventListener("click", () => this.#unfold(false));
    $("channel-form").addEventListener("keydown", ({ key }) => key === "Escape" && this.#unfold(false));
    $("channel-form").addEventListener("submit", (event) => this.#create(event));
  }

  add(channel) {
    if (this.all.some(({ name }) => name === channel.name)) return;
    this.all.push(channel);
    const attributes = { type: "button", class: "chip", "aria-pressed": "false", "data-testid": "channel", "data-name": channel.name };
    this.#add.before(h("button", { ...attributes, on: { click: () => this.#open(channel.name) } }, channel.title));
  }

  choose(name) {
    for (const chip of $("channels").querySelectorAll("[data-name]")) {
      const chosen = chip.dataset.name === name;
      chip.setAttribute("aria-pressed", String(chosen));
      if (chosen) chip.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  #unfold(open) {
    $("channel-form").hidden = !open;
    $("channel-fault").textContent = "";
    this.#add.setAttribute("aria-expanded", String(open));
    (open ? $("channel-name") : this.#add).focus();
  }

  async #create(event) {
    event.preventDefault();
    const name = $("channel-name").value.trim();
    const title = $("channel-title").value.trim() || name;
    const create = async () => {
      const channel = await this.#town.api.createChannel(name, title);
      this.add({ name, title, ...channel });
      $("channel-form").reset();
      this.#unfold(false);
      this.#open(channel.name ?? name);
    };
    await attempt($("channel-fault"), create, event.submitter);
  }
}
