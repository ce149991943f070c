// Questions before something is done that cannot be taken back, and a word when it is done.

import { $, h, setText } from "./dom.js";

const TOAST_MS = 5000;
let toasting;

/**
 * Asks in a dialog, and runs `run(values)` where the person agrees. It closes once that succeeded; a fault is shown in it.
 * `fields` are [{ name, label, value, kind, note, expected }]: kind "text", "area" or "check"; with `expected`, that must be typed.
 */
export function ask({ title, text, button, danger = true, fields = [], done = "", run }) {
  const inputs = fields.map(inputOf);
  const fault = h("p", { class: "fault", role: "alert" });
  const act = h("button", { type: "submit", class: danger ? "danger" : "primary" }, button);
  const cancel = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
  const form = h("form", { method: "dialog" }, ...inputs.map(({ element }) => element), fault, h("div", { class: "row end" }, cancel, act));
  const dialog = h("dialog", { "aria-labelledby": "ask-title" }, h("h2", { id: "ask-title" }, title), text && h("p", {}, text), form);
  let running = false;
  const allowed = () => (act.disabled = running || !inputs.every(({ accepts }) => accepts()));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    running = true;
    allowed();
    await submit({ dialog, fault, inputs, run, done });
    running = false;
    allowed();
  });
  form.addEventListener("input", allowed);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  allowed();
  dialog.showModal();
  (inputs[0]?.input ?? cancel).focus();
}

async function submit({ dialog, fault, inputs, run, done }) {
  setText(fault, "");
  try {
    const said = await run(Object.fromEntries(inputs.map(({ name, read }) => [name, read()])));
    dialog.close();
    toast(said ?? done);
  } catch (error) {
    if (dialog.open) setText(fault, error.message);
    else toast(error.message);
  }
}

function inputOf({ name, label, value = "", kind = "text", note, expected }) {
  const id = `ask-${name}`;
  const input =
    kind === "area"
      ? h("textarea", { id, rows: 6, spellcheck: "false" }, value)
      : h("input", {
          id,
          type: kind === "check" ? "checkbox" : "text",
          autocomplete: "off",
          autocapitalize: "none",
          spellcheck: "false",
          value: kind === "check" ? null : value,
        });
  const read = () => (kind === "check" ? input.checked : input.value);
  const labelled = h("label", { for: id }, label);
  const parts = kind === "check" ? [h("div", { class: "row" }, input, labelled)] : [labelled, input];
  const element = h("div", { class: "field" }, ...parts, note && h("p", { class: "soft" }, note));
  return { name, input, read, element, accepts: () => expected === undefined || read() === expected };
}

/** A word at the edge of the page, which screen readers read out. */
export function toast(text) {
  clearTimeout(toasting);
  setText($("toast"), text);
  toasting = setTimeout(() => setText($("toast"), ""), TOAST_MS);
}
