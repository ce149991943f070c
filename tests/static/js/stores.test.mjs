// stores.js: what a page shows of a channel and of who is present, after connections that were lost and gaps.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { ChannelStore, PresenceStore } from "../../../static/stores.js";
import { Page, settled } from "./kit.mjs";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc");

/** A page that is live in "a", which `store` follows. */
async function following(make) {
  const page = new Page();
  const store = make(page.gateway);
  store.subscribe(() => {});
  await page.connect();
  await settled();
  return [page, store];
}

const data = ({ snapshot }) => snapshot.publications.map(({ data }) => data);
const entries = (...offsets) => offsets.map((offset) => ({ data: offset, offset }));

/** The connection is lost, and the next one begins the subscription with `result`. */
async function reconnect(page, result) {
  page.socket.end();
  await page.advance(500);
  page.socket.open();
  await settled();
  page.socket.reply("connect", {});
  page.socket.reply("subscribe", { recoverable: true, was_recovering: true, ...result });
  await settled();
}

test("a history whose connection was lost before the answer is read on the next one", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  await reconnect(page, { recovered: true, epoch: "e", offset: 8, publications: entries(8) });
  assert.equal(page.socket.sent("history").length, 1);
  page.socket.reply("history", { publications: entries(8, 7, 6), epoch: "e", offset: 8 });
  await settled();
  assert.deepEqual(data(store), [6, 7, 8]);
  assert.equal(store.snapshot.error, null);
});

test("older publications that are read after a gap are shown after those from before it", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a"));
  page.socket.publish("a", "before", 8);
  await reconnect(page, { recovered: false, epoch: "f", offset: 2 });
  page.socket.publish("a", 3, 3);
  store.older();
  page.socket.reply("history", { publications: entries(2, 1), epoch: "f", offset: 3 });
  await settled();
  assert.deepEqual(data(store), ["before", 1, 2, 3]);
});

test("the answer to a read from before a gap hides nothing that follows the gap", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a"));
  page.socket.publish("a", "before", 8);
  store.older();
  page.socket.push("a", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  await page.advance(500);
  page.socket.reply("subscribe", { recoverable: true, was_recovering: true, recovered: false, epoch: "f", offset: 0 });
  page.socket.reply("history", { publications: entries(7, 6), epoch: "e", offset: 8 });
  await settled();
  page.socket.publish("a", 1, 1);
  assert.deepEqual(data(store), ["before", 1]);
});

test("clients that came and went are not remembered", async () => {
  const [page, store] = await following((gateway) => new PresenceStore(gateway, "a"));
  page.socket.reply("presence", { presence: {} });
  await settled();
  const seen = [];
  for (let number = 0; number < 3; number++) {
    page.socket.push("a", { join: { info: { client: "c", user: "ann" } } });
    seen.push(new WeakRef(store.snapshot.clients[0]));
    page.socket.push("a", { leave: { info: { client: "c", user: "ann" } } });
  }
  page.socket.frames.length = 0;
  await settled();
  collect();
  assert.deepEqual(seen.map((each) => each.deref()), [undefined, undefined, undefined]);
});
