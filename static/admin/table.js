// A table whose rows are known by a key: a row that remains is the same element, wherever it moves.
//
// On a phone each row is a card (css/tables.css), so the roles of a table are written out: a browser drops them with the layout.

import { h, setText } from "./dom.js";

export class Table {
  #columns;
  #key;
  #rows = new Map(); // key → { row, element }

  /**
   * `columns` are [{ title, fill, kind }]: `fill(cell, row)` is of fill.js, and kind a class of the cells, as "number" or "acts" for buttons.
   * `empty` is shown where there are no rows.
   */
  constructor({ caption, columns, key, empty = "There is nothing." }) {
    this.#columns = columns;
    this.#key = key;
    const heads = columns.map(({ title, kind = "" }) =>
      h("th", { scope: "col", role: "columnheader", class: kind }, kind === "acts" ? hidden(title) : title),
    );
    this.body = h("tbody", { role: "rowgroup" });
    this.head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads));
    this.table = h(
      "table",
      { role: "table", tabindex: "-1", hidden: true },
      h("caption", { class: "unseen" }, caption),
      this.head,
      this.body,
    );
    this.empty = h("p", { class: "empty", hidden: true }, empty);
    this.element = h("div", { class: "table" }, this.table, this.empty);
  }

  get size() {
    return this.#rows.size;
  }

  show(rows) {
    const { activeElement } = document;
    const focused = this.table.contains(activeElement) && activeElement;
    const keys = new Set(rows.map(this.#key));
    for (const [key, element] of this.#rows) if (!keys.has(key)) this.#remove(key, element);
    rows.forEach((row, place) => this.#place(row, place));
    this.empty.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    if (focused && focused !== document.activeElement) (focused.isConnected ? focused : this.table).focus({ preventScroll: true });
  }

  setEmpty(text) {
    setText(this.empty, text);
  }

  #remove(key, element) {
    element.remove();
    this.#rows.delete(key);
  }

  #place(row, place) {
    const key = this.#key(row);
    const element = this.#rows.get(key) ?? this.#make(key);
    this.#columns.forEach(({ fill }, at) => fill(element.children[at], row));
    const there = this.body.children[place];
    if (there !== element) this.body.insertBefore(element, there ?? null);
  }

  #make(key) {
    const cells = this.#columns.map(({ title, kind = "" }) => h("td", { role: "cell", class: kind, "data-title": title }));
    const element = h("tr", { role: "row" }, ...cells);
    this.#rows.set(key, element);
    return element;
  }
}

const hidden = (title) => h("span", { class: "unseen" }, title);
