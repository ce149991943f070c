// The workshop: what members ask for and a worker does later. Its modules, besides those of the town (main.js):
//
//   reports   a report of each month: made, followed, cancelled, fetched
//   orders    what this member ordered, with each state
//   queue     the whole queue: its numbers, its jobs, and buttons that put jobs into it

import { Api } from "./api.js";
import { ring } from "./bell.js";
import { $, visit } from "./dom.js";
import { Line } from "./line.js";
import { become, choose, remembered } from "./member.js";
import { Orders } from "./orders.js";
import { Queue } from "./queue.js";
import { Reports } from "./reports.js";

async function enter(name) {
  const api = new Api(name);
  const me = await api.enter();
  const state = await api.work();
  become(me);
  $("welcome").hidden = true;
  $("town").hidden = false;
  const line = new Line(me, () => api.lineToken());
  const shop = { me, api, line };
  shop.reports = new Reports(shop, state);
  shop.orders = new Orders(shop, state);
  shop.queue = new Queue(shop, state, reload);
  ring(line, go, ({ type }) => type !== "order" && type !== "report"); // those are on the page already
  show(location.hash.slice(1));

  /** Reads everything anew: history no longer held what a channel missed. */
  async function reload() {
    const { reports, orders, queue } = await api.work();
    shop.reports.show(reports);
    shop.orders.show(orders);
    shop.queue.show(queue);
  }
}

/** Targets of notifications, such as report:2026-11. What is not here is in the town. */
function go(target) {
  const [kind, id] = target.split(":");
  if (kind === "post" || kind === "review") location.assign(`./#${target}`);
  else show(`${kind}-${id}`);
}

function show(id) {
  const row = id && document.getElementById(id);
  if (row) visit(row);
}

const name = remembered();
if (name) enter(name).catch((error) => choose(enter).then(() => ($("enter-fault").textContent = error.message)));
else choose(enter);
