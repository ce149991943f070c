// How a table's cell is filled from its row, again and again: the elements in it remain, so that neither focus nor selection is lost.

import { h, s, setAttribute, setText } from "./dom.js";

/** Plain text. `of(row)` is a string. */
export const text = (of) => (cell, row) => setText(cell, of(row));

/** Text in the letters of code. */
export const code = (of) => (cell, row) => setText(within(cell, "code"), of(row));

/** A link to `to(row)`; `tag` is "code" for ids. */
export const link = (to, of, tag) => (cell, row) => {
  const anchor = within(cell, "a");
  setAttribute(anchor, "href", to(row));
  setText(tag ? within(anchor, tag) : anchor, of(row));
};

/** `of(row)` is [tone, text], tone one of "good", "warn", "bad" and "plain"; or null for an empty cell. */
export const badge = (of) => (cell, row) => {
  const found = of(row);
  if (!found) return setText(cell, "");
  const element = within(cell, "span");
  setAttribute(element, "class", `badge ${found[0]}`);
  setText(element, found[1]);
};

/** A bar whose length is the share of `of(row)` in `most()`. */
export const bar = (of, most) => (cell, row) => {
  const meter = within(cell, "svg", barElement);
  setAttribute(meter.firstChild, "width", ((100 * of(row)) / Math.max(1, most())).toFixed(1));
};

/** Buttons: [{ label, run, when }], `run(row)`; `about(row)` completes their names for screen readers. */
export const buttons = (list, about) => (cell, row) => {
  for (const [place, { label, run, when = () => true }] of list.entries()) {
    const button =
      cell.children[place] ?? cell.appendChild(h("button", { type: "button", class: "small" }, label, h("span", { class: "unseen" })));
    setText(button.lastChild, ` ${about(row)}`);
    button.hidden = !when(row);
    button.onclick = () => run(row);
  }
};

/** The first element of that kind in `parent`, which is made where it is missing. */
function within(parent, tag, make = () => document.createElement(tag)) {
  const found = [...parent.children].find((child) => child.localName === tag);
  if (found) return found;
  if (!parent.children.length) parent.textContent = "";
  return parent.appendChild(make());
}

function barElement() {
  const share = s("rect", { height: 6 });
  return s("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, share);
}
