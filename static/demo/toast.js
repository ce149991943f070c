// Shows what has just arrived, for a moment, at the edge of the page.

import { $, h, icon } from "./dom.js";

const SHOWN_MS = 6000;
const TOASTS_MOST = 3;

/** Shows a toast. It replaces one with the same id, as an update replaces a notification in the list. */
export function toast(id, text, act) {
  let timer;
  const leave = () => element.remove();
  const stay = () => clearTimeout(timer);
  const go = () => (timer = setTimeout(leave, SHOWN_MS));
  const open = () => {
    leave();
    act();
  };
  const say = h("button", { type: "button", class: "toast-text", on: { click: open } }, icon("bell"), h("span", {}, text));
  const close = h("button", { type: "button", class: "quiet square", "aria-label": "Dismiss", on: { click: leave } }, icon("close"));
  // It stays while the pointer or the focus is on it.
  const on = { pointerenter: stay, pointerleave: go, focusin: stay, focusout: go };
  const element = h("div", { class: "toast", "data-testid": "toast", "data-id": id, on }, say, close);
  const toasts = $("toasts");
  toasts.querySelector(`[data-id="${CSS.escape(id)}"]`)?.remove();
  toasts.append(element);
  while (toasts.children.length > TOASTS_MOST) toasts.firstChild.remove();
  go();
}
