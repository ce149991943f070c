// stores.js: what a page shows of a channel and of who is present, after connections that were lost and gaps, and how much it holds.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { ChannelStore, InboxStore, PresenceStore } from "../../../static/stores.js";
import { Page, jwt, settled } from "./kit.mjs";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc");

/** A page that is live in "a", which `store` follows. */
async function following(make) {
  const page = new Page();
  const store = make(page.gateway);
  store.subscribe(() => {});
  await page.connect();
  await settled();
  return [page, store];
}

/** The same in a channel without positions. */
async function followingPlain(make) {
  const page = new Page();
  const store = make(page.gateway);
  store.subscribe(() => {});
  await settled();
  page.socket.open();
  await settled();
  page.socket.reply("connect", {});
  page.socket.reply("subscribe", {});
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

test("a history of an epoch whose gap is still to come is not shown among what was there before", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  page.socket.publish("a", "before", 8);
  page.socket.reply("history", { publications: entries(2, 1), epoch: "f", offset: 2 });
  await settled();
  assert.deepEqual(data(store), ["before"]);
  page.socket.push("a", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  await page.advance(500);
  page.socket.reply("subscribe", { recoverable: true, was_recovering: true, recovered: false, epoch: "f", offset: 2 });
  page.socket.reply("history", { publications: entries(2, 1), epoch: "f", offset: 2 });
  await settled();
  assert.deepEqual(data(store), [1, 2]);
});

test("an answer of a history that began anew, which comes before the gap, is shown once and after it", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a"));
  page.socket.publish("a", "before", 8);
  page.socket.push("a", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  const anew = { publications: entries(2, 1), epoch: "f", offset: 2 };
  store.older();
  page.socket.reply("history", anew);
  await page.advance(500);
  page.socket.reply("subscribe", { recoverable: true, was_recovering: true, recovered: false, epoch: "f", offset: 2 });
  page.socket.publish("a", 3, 3);
  store.older();
  page.socket.reply("history", anew);
  await settled();
  assert.deepEqual(data(store), ["before", 1, 2, 3]);
});

test("a history that could not be read is read again while the connection goes on", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  page.socket.refuse("history", { code: 100, message: "internal server error", temporary: true });
  await settled();
  assert.equal(store.snapshot.error.code, 100);
  await page.advance(1000);
  page.socket.reply("history", { publications: entries(7, 6), epoch: "e", offset: 7 });
  await settled();
  assert.deepEqual([data(store), store.snapshot.error], [[6, 7], null]);
});

test("older publications that are asked for while the first are read, and fail, do not take their place", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  page.socket.publish("a", 8, 8);
  store.older();
  await settled();
  page.socket.refuse("history", { code: 100, message: "internal server error", temporary: true });
  await page.advance(1000);
  page.socket.reply("history", { publications: entries(8, 7, 6), epoch: "e", offset: 8 });
  await settled();
  assert.deepEqual([data(store), store.snapshot.error], [[6, 7, 8], null]);
});

test("a store reads ever more rarely while the errors last", async () => {
  const [page] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  for (const [asked, ms] of [500, 1000, 2000].entries()) {
    page.socket.refuse("history", { code: 100, message: "internal server error", temporary: true });
    await page.advance(ms - 1);
    assert.equal(page.socket.sent("history").length, asked + 1);
    await page.advance(1);
    assert.equal(page.socket.sent("history").length, asked + 2);
  }
});

test("a history whose publications are long is read in several answers, up to what is wanted", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  const long = (...offsets) => offsets.map((offset) => ({ data: "x".repeat(50_000), offset }));
  page.socket.reply("history", { publications: long(7, 6), epoch: "e", offset: 7 });
  await settled();
  const [, { limit, since }] = page.socket.sent("history");
  assert.deepEqual([limit, since], [1, { epoch: "e", offset: 6 }]);
  page.socket.reply("history", { publications: long(5), epoch: "e", offset: 7 });
  await settled();
  assert.deepEqual(store.snapshot.publications.map(({ offset }) => offset), [5, 6, 7]);
  assert.deepEqual([store.snapshot.more, page.socket.sent("history").length], [true, 2]);
});

test("a history of more publications than one answer of the gateway has is read in several", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 400 }));
  const down = (from, count) => entries(...Array.from({ length: count }, (_, n) => from - n));
  page.socket.reply("history", { publications: down(900, 300), epoch: "e", offset: 900 });
  await settled();
  const [, { limit, since }] = page.socket.sent("history");
  assert.deepEqual([limit, since], [100, { epoch: "e", offset: 601 }]);
  page.socket.reply("history", { publications: down(600, 100), epoch: "e", offset: 900 });
  await settled();
  assert.deepEqual([store.snapshot.publications.length, store.snapshot.more], [400, true]);
});

test("a history that the rules do not let the page read is asked for once", async () => {
  const [page] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3 }));
  page.socket.refuse("history", { code: 103, message: "permission denied" });
  await page.advance(5000);
  assert.equal(page.socket.sent("history").length, 1);
});

test("the list of an inbox that could not be read is read again, and no more once nothing follows it", async () => {
  const page = new Page();
  const store = new InboxStore(page.gateway);
  const stop = store.subscribe(() => {});
  await page.connect();
  await settled();
  const away = { code: 100, message: "internal server error", temporary: true };
  page.socket.refuse("rpc", away);
  await page.advance(1000);
  assert.equal(page.socket.sent("rpc").length, 2);
  page.socket.refuse("rpc", away);
  await settled();
  stop();
  await page.advance(5000);
  assert.equal(page.socket.sent("rpc").length, 2);
});

test("older notifications are read to the end of the list, although an answer is shorter than its limit", async () => {
  const page = new Page();
  const store = new InboxStore(page.gateway, { size: 60 });
  store.subscribe(() => {});
  await page.connect();
  const asked = [];
  const answer = async (next, count) => {
    await settled();
    asked.push(page.socket.sent("rpc").at(-1).data);
    const notifications = Array.from({ length: count }, (_, n) => ({ id: `${asked.length}-${n}`, data: {} }));
    page.socket.reply("rpc", { data: { notifications, next, unread: 0, change: 1, epoch: "i" } });
    await settled();
  };
  await answer("i:50", 60);
  await answer("i:50", 60); // its count was new, so the list may be as well
  store.older();
  await answer("i:10", 100);
  await answer("i:5", 5); // it had enough bytes
  await answer(null, 3);
  assert.deepEqual(asked.slice(1), [{ limit: 60 }, { limit: 120 }, { limit: 20, before: "i:10" }, { limit: 15, before: "i:5" }]);
  assert.deepEqual([store.snapshot.notifications.length, store.snapshot.more], [108, false]);
});

test("an answer that is older than an announcement brings back no older count", async () => {
  const page = new Page({ token: jwt("ann") });
  const store = new InboxStore(page.gateway);
  const counts = [];
  store.subscribe(() => counts.push(store.snapshot.unread));
  await page.connect({ subs: { "notifications:ann": { recoverable: true, epoch: "i", offset: 7 } } });
  page.socket.push("notifications:ann", { pub: { data: { inbox: { unread: 3, change: 5, epoch: "i" } } } });
  for (const { id } of page.socket.sent("rpc")) {
    page.socket.receive({ id, rpc: { data: { notifications: [], next: null, unread: 2, change: 4, epoch: "i" } } });
  }
  await settled();
  assert.deepEqual(store.snapshot.notifications, []);
  assert.deepEqual([counts.includes(2), store.snapshot.unread], [false, 3]);
});

test("a listener that throws harms neither the others nor the next read of the list", async () => {
  const page = new Page();
  const store = new InboxStore(page.gateway);
  let [calls, reported] = [0, 0];
  globalThis.reportError = () => (reported += 1);
  store.subscribe(() => {
    throw new Error("of the page");
  });
  store.subscribe(() => (calls += 1));
  await page.connect();
  page.socket.refuse("rpc", { code: 100, message: "internal server error", temporary: true });
  await page.advance(1000);
  page.socket.reply("rpc", { data: { notifications: [], next: null, unread: 0, change: 1, epoch: "i" } });
  await settled();
  delete globalThis.reportError;
  assert.deepEqual([store.snapshot.notifications, store.snapshot.error, calls], [[], null, reported]);
});

test("what history brought before it arrived is shown once, and has arrived all the same", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 3, limit: 3 }));
  const arrived = [];
  store.arrived = ({ data }) => arrived.push(data);
  page.socket.reply("history", { publications: entries(9, 8, 7), epoch: "e", offset: 9 });
  await settled();
  for (const offset of [8, 9, 10]) page.socket.publish("a", offset, offset);
  assert.deepEqual([data(store), arrived], [[8, 9, 10], [8, 9, 10]]);
});

test("what is dropped, because newer ones arrived, can be read again", async () => {
  const [page, store] = await following((gateway) => new ChannelStore(gateway, "a", { history: 2, limit: 2 }));
  page.socket.reply("history", { publications: entries(7), epoch: "e", offset: 7 });
  await settled();
  assert.equal(store.snapshot.more, false);
  page.socket.publish("a", 8, 8);
  assert.equal(store.snapshot.more, false);
  page.socket.publish("a", 9, 9);
  assert.deepEqual([data(store), store.snapshot.more], [[8, 9], true]);
});

test("a channel without positions has older publications too", async () => {
  const [page, store] = await followingPlain((gateway) => new ChannelStore(gateway, "a", { history: 1 }));
  page.socket.reply("history", { publications: entries(7), epoch: "e", offset: 7 });
  await settled();
  store.older();
  await settled();
  assert.deepEqual(page.socket.sent("history").at(-1).since, { epoch: "", offset: 7 });
});

test("what a channel without positions missed is shown where history is read", async () => {
  const [page, store] = await followingPlain((gateway) => new ChannelStore(gateway, "a", { history: 2 }));
  page.socket.reply("history", { publications: entries(7, 6), epoch: "e", offset: 7 });
  await settled();
  page.socket.end();
  await page.advance(500);
  page.socket.open();
  await settled();
  page.socket.reply("connect", {});
  page.socket.reply("subscribe", {});
  page.socket.publish("a", 10, 10);
  page.socket.reply("history", { publications: entries(9, 8), epoch: "e", offset: 9 });
  await settled();
  assert.deepEqual([data(store), store.snapshot.gaps], [[8, 9, 10], 0]);
});

test("publications of a channel without positions whose offsets begin anew are shown, after a gap", async () => {
  const [page, store] = await followingPlain((gateway) => new ChannelStore(gateway, "a"));
  for (const offset of [7, 8, 1, 2]) page.socket.publish("a", offset, offset);
  const { publications, gaps } = store.snapshot;
  assert.deepEqual([data(store), gaps, new Set(publications.map(({ key }) => key)).size], [[7, 8, 1, 2], 1, 4]);
});

test("over event streams, a history that needs the channel's token is read with it", async () => {
  const page = new Page();
  const store = new ChannelStore(page.gateway, "a", { history: 1, token: jwt("channel") });
  store.subscribe(() => {});
  await page.fallBack();
  page.stream.send("connected", { channels: { a: { epoch: "e", offset: 7 } }, tops: {} });
  await settled();
  const { searchParams } = page.requests.find(({ url }) => url.pathname === "/history").url;
  assert.equal(searchParams.get("subscription_token"), jwt("channel"));
});

/** A gateway with one subscription, whose events the test makes with emit(). */
function gatewayOf(answers = {}) {
  const handlers = {};
  const on = (event, handler) => {
    handlers[event] = handler;
    return () => delete handlers[event];
  };
  const subscription = { state: "live", on, unsubscribe: () => {}, ...answers };
  const _platform = { setTimeout: () => 0, clearTimeout: () => {}, random: () => 1 };
  return { subscribe: () => subscription, emit: (event, detail) => handlers[event]?.(detail), _platform };
}

for (const limit of [0, 1, 3]) {
  test(`a channel of which ${limit} publications are wanted holds no more`, () => {
    const gateway = gatewayOf();
    const store = new ChannelStore(gateway, "posts:tech", { limit });
    const arrived = [];
    store.arrived = ({ data }) => arrived.push(data);
    store.subscribe(() => {});
    for (let offset = 1; offset <= 10; offset += 1) gateway.emit("publication", { offset, data: offset });
    assert.deepEqual(store.snapshot.publications.map(({ data }) => data), [8, 9, 10].slice(3 - limit));
    assert.equal(arrived.length, 10);
  });
}

test("who was present when a store was last followed is not shown when it is followed again", async () => {
  const answers = [Promise.resolve([{ client: "c0", user: "ann" }]), new Promise(() => {})];
  const store = new PresenceStore(gatewayOf({ presence: () => answers.shift() }), "room:1");
  const stop = store.subscribe(() => {});
  await settled();
  assert.deepEqual(store.snapshot.users, ["ann"]);
  stop();
  store.subscribe(() => {});
  assert.deepEqual(store.snapshot.users, []);
});

test("who left while the gateway had no link to Valkey is gone from presence after some minutes", async () => {
  const [page, store] = await following((gateway) => new PresenceStore(gateway, "room:1"));
  const answer = async (...clients) => {
    page.socket.reply("presence", { presence: Object.fromEntries(clients.map((client) => [client, { client, user: client }])) });
    await settled();
  };
  await answer("ann", "ben");
  assert.deepEqual(store.snapshot.users, ["ann", "ben"]);
  await page.advance(119_000);
  assert.equal(page.socket.sent("presence").length, 1);
  await page.advance(1000);
  await answer("ann");
  assert.deepEqual(store.snapshot.users, ["ann"]);
});

test("joins and leaves are not held once presence was read", async () => {
  const presence = async () => [{ client: "c0", user: "ann" }];
  const gateway = gatewayOf({ presence });
  const store = new PresenceStore(gateway, "room:1");
  store.subscribe(() => {});
  gateway.emit("join", { info: { client: "c1", user: "ben" } }); // while presence is asked for, and not in its answer
  await settled();
  assert.deepEqual(store.snapshot.users, ["ann", "ben"]);
  const held = [];
  for (let number = 0; number < 100; number += 1) {
    const info = { client: "guest", user: "guest" };
    held.push(new WeakRef(info));
    gateway.emit("join", { info });
    gateway.emit("leave", { info });
  }
  assert.deepEqual(store.snapshot.users, ["ann", "ben"]);
  await settled();
  collectGarbage();
  await settled();
  collectGarbage();
  assert.ok(held.filter((info) => info.deref()).length <= 1);
});
