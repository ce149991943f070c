// The login form: a wrong key, and a wait where too many were wrong.

import { $, setText } from "./dom.js";
import { Session } from "./session.js";
import { span } from "./units.js";

export class Door {
  #counting;

  /** `enter` is called with each session that was opened. */
  constructor(enter) {
    this.enter = enter;
    $("door-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#open();
    });
  }

  show(note = "") {
    $("door").hidden = false;
    setText($("door-note"), note);
    document.title = "Log in · gateway console";
    $("key").focus();
  }

  hide() {
    $("door").hidden = true;
    clearInterval(this.#counting);
    setText($("door-fault"), "");
    setText($("door-note"), "");
  }

  async #open() {
    const button = $("door-form").querySelector("button");
    if (button.disabled) return;
    button.disabled = true;
    setText($("door-fault"), "");
    try {
      const session = await Session.open($("key").value);
      $("key").value = "";
      this.hide();
      this.enter(session);
    } catch (refusal) {
      this.#refused(refusal);
    }
    button.disabled = Boolean(this.#until);
  }

  #until = 0;

  #refused({ message, status, retrySeconds }) {
    setText($("door-fault"), message);
    if (status === 401) $("key").select();
    else if (status === 429) this.#wait(retrySeconds || 60);
  }

  /** Counts down, and lets the form be sent again at the end. */
  #wait(seconds) {
    const message = $("door-fault").textContent;
    const button = $("door-form").querySelector("button");
    this.#until = Date.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((this.#until - Date.now()) / 1000);
      setText(button, left > 0 ? `Log in again in ${span(left)}` : "Log in");
      if (left > 0) return;
      clearInterval(this.#counting);
      this.#until = 0;
      button.disabled = false;
      if ($("door-fault").textContent === message) setText($("door-fault"), "");
    };
    clearInterval(this.#counting);
    this.#counting = setInterval(tick, 1000);
    tick();
  }
}
