// The console: who is logged in, the page's own connection, and the view that the address names.

import { toast } from "./dialog.js";
import { $, setAttribute, setText } from "./dom.js";
import { Door } from "./door.js";
import { Live } from "./live.js";
import { placeOf } from "./route.js";
import { sentence, Session } from "./session.js";
import { viewOf } from "./views/all.js";

const RETRY_MS = 2000;
const PATIENCE_MS = 1500; // a gateway that restarts is back sooner
const LOST = "The live connection is lost: charts, tails and the log pause.";
const STATES = { connecting: "connecting", connected: "live", waiting: "reconnecting", refused: "refused", closed: "ended" };

class Console {
  session;
  live;
  #door = new Door((session) => this.#enter(session));
  #view;
  #patience;
  #kind; // the view's class and parts, which differ only where another view is opened

  constructor() {
    $("leave").addEventListener("click", () => this.#leave());
    $("skip").addEventListener("click", (event) => {
      event.preventDefault(); // an address within the page names a view
      $("view").focus();
    });
    addEventListener("hashchange", () => this.session && this.#go(true));
    addEventListener("keydown", (event) => this.#key(event));
    for (const anchor of $("views").querySelectorAll("a")) anchor.addEventListener("click", () => $("views").hidePopover());
    this.#begin();
  }

  /** Finds the session of the browser's cookie; while the gateway is away, it asks again. */
  async #begin() {
    try {
      const session = await Session.found();
      $("starting").hidden = true;
      if (session) this.#enter(session);
      else this.#door.show();
    } catch (refusal) {
      setText($("starting-text"), `${refusal.message} Trying again …`);
      setTimeout(() => this.#begin(), RETRY_MS);
    }
  }

  #enter(session) {
    this.session = session;
    session.over = () => this.#end("The session is over. Log in again, and you are back where you were.");
    this.live = new Live(session);
    this.live.onState((event) => this.#showState(event));
    $("console").hidden = false;
    $("role").hidden = session.mayWrite;
    this.#go(false);
  }

  async #leave() {
    try {
      const warning = await this.session.close();
      this.#end(`You are logged out. ${warning && sentence(warning)}`.trim());
    } catch (refusal) {
      if (refusal.status === 401) this.#end("You are logged out.");
      else toast(`Not logged out: ${refusal.message}`);
    }
  }

  #end(note) {
    for (const dialog of document.querySelectorAll("dialog")) dialog.close();
    this.#view?.close();
    this.live.close();
    clearTimeout(this.#patience);
    setText($("line"), "");
    this.session = this.live = this.#view = this.#kind = null;
    $("place").replaceChildren();
    $("console").hidden = true;
    this.#door.show(note);
  }

  /** Shows the place of the address: in the view that is there, where it is of the same kind. */
  #go(byHand) {
    const place = placeOf(location.hash);
    const { view: Class, name } = viewOf(place);
    const kind = JSON.stringify([Class.name, name, place.parts]);
    if (kind !== this.#kind) this.#open(Class, place, byHand);
    this.#kind = kind;
    for (const anchor of $("views").querySelectorAll("li a")) {
      setAttribute(anchor, "aria-current", placeOf(anchor.hash).name === name ? "page" : null);
    }
    this.#view.show(place);
  }

  #open(Class, place, byHand) {
    this.#view?.close();
    this.#view = new Class(this, place);
    $("place").replaceChildren(this.#view.element);
    document.title = `${this.#view.heading.textContent} · gateway console`;
    scrollTo(0, 0);
    if (byHand) this.#view.heading.focus({ preventScroll: true });
  }

  #showState({ state, reason }) {
    $("state").dataset.state = state;
    setText($("state-text"), STATES[state]);
    clearTimeout(this.#patience);
    if (state === "waiting") this.#patience = setTimeout(() => this.#showLine(`${LOST} It comes back by itself.`, reason), PATIENCE_MS);
    else if (state === "refused") this.#showLine("The gateway refused the live connection.", reason);
    else if (state === "connected") setText($("line"), "");
  }

  #showLine(text, reason) {
    setText($("line"), reason ? `${text} (${reason})` : text);
  }

  /** A slash moves the focus to the search of the view; Escape clears it. */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.session) return;
    const types = event.target.matches?.("input, textarea, select");
    const search = $("view").querySelector("[data-search=true], [data-search='']");
    if (event.key === "/" && !types && search && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape" && event.target.matches?.("[type=search]")) {
      event.target.value = "";
      event.target.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }
}

new Console();
