// The member's newest orders, each with the states that it has reached. The states arrive in the channel of the order.

import { since } from "./api.js";
import { $, attempt, h, once } from "./dom.js";
import { time } from "./time.js";

const SHOWN_MOST = 4;
const STEPS = ["placed", "processing", "paid", "shipped", "delivered"];
const ENDS = { rejected: "was rejected", cancelled: "was cancelled", delivered: "was delivered" };

export class Orders {
  #shop;
  #orders = new Map(); // id → { order, element }, the newest first

  constructor(shop, { menu, orders }) {
    this.#shop = shop;
    for (const { id, name, price } of menu) {
      const attributes = { type: "button", class: "chip", "data-testid": "order-item", "data-item": id };
      $("menu").append(h("button", { ...attributes, on: { click: once(() => this.#place(id)) } }, `${name} · ${price}`));
    }
    this.show(orders);
  }

  /** `orders` are the newest first, each with the position of its channel. */
  show(orders) {
    for (const id of this.#orders.keys()) this.#remove(id);
    for (const { order, position } of orders.slice(0, SHOWN_MOST)) this.#add(order, position);
    this.#count();
  }

  async #place(item) {
    await attempt($("orders-fault"), async () => {
      const { order, position } = await this.#shop.api.placeOrder(item);
      this.#add(order, position);
      this.#count();
    });
  }

  #add(order, position) {
    if (this.#orders.has(order.id)) return;
    const element = h("li", { id: `orders-${order.id}`, class: "row-card", tabindex: "-1", "data-testid": "order" });
    const older = [...this.#orders.values()].find((each) => each.order.id < order.id); // two answers may arrive in any order
    $("orders").insertBefore(element, older?.element ?? null);
    this.#orders = new Map([...this.#orders, [order.id, { order, element }]].sort(([one], [other]) => other - one));
    this.#draw(order);
    this.#shop.line.follow(`orders:${order.id}`, {
      since: since(position),
      publication: ({ data }) => this.#draw(data.order),
      gap: async () => this.show((await this.#shop.api.work()).orders),
    });
    for (const id of [...this.#orders.keys()].slice(SHOWN_MOST)) this.#remove(id);
  }

  #remove(id) {
    this.#orders.get(id).element.remove();
    this.#orders.delete(id);
    this.#shop.line.unfollow(`orders:${id}`);
  }

  #count() {
    $("orders-empty").hidden = this.#orders.size > 0;
  }

  #draw(order) {
    const { element } = this.#orders.get(order.id);
    element.dataset.state = order.state;
    const title = h("h4", {}, `No. ${order.id}: ${order.item}`);
    const last = order.state === "placed" ? this.#cancelling(order) : time(order.changed_at);
    element.replaceChildren(h("div", { class: "row-head" }, title, last), this.#steps(order));
    if (order.reason) element.append(h("p", { class: "soft words" }, `Rejected: ${order.reason}`));
    if (ENDS[order.state]) $("orders-note").textContent = `Order ${order.id} ${ENDS[order.state]}.`;
  }

  /** A button for as long as no worker has begun. */
  #cancelling({ id }) {
    const about = h("span", { class: "unseen" }, ` order ${id}`);
    const end = once(() => attempt($("orders-fault"), () => this.#shop.api.cancelOrder(id)));
    return h("button", { type: "button", class: "small", "data-testid": "cancel-order", on: { click: end } }, "Cancel", about);
  }

  #steps({ state }) {
    const reached = STEPS.indexOf(state);
    const shown = reached < 0 ? ["placed", ...(state === "rejected" ? ["processing"] : []), state] : STEPS;
    const at = shown.indexOf(state);
    const step = (name, place) => h("li", { class: place <= at ? "reached" : null, "aria-current": place === at ? "step" : null }, name);
    return h("ol", { class: "steps", "aria-label": "States" }, ...shown.map(step));
  }
}
