// Subscriptions: positions, recovery, gaps, the server's own, components that share one, listeners.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Gateway, GatewayError } from "../../../static/gateway.js";
import { GATEWAY, POSITION, Page, jwt, settled } from "./kit.mjs";

/** A page that is live in these channels, at the position e:7. */
async function live(...channels) {
  const page = new Page();
  const subscriptions = channels.map((channel) => page.gateway.subscribe(channel));
  await page.connect();
  return [page, ...subscriptions];
}

async function reconnect(page) {
  page.socket.end();
  await page.advance(500);
  page.socket.open();
  await settled();
  page.socket.reply("connect", {});
}

test("publications move the position, and one that comes twice is received once", async () => {
  const [page, subscription] = await live("a");
  page.socket.publish("a", "x", 8);
  page.socket.publish("a", "x", 8);
  page.socket.publish("a", "older", 3);
  page.socket.publish("a", "ephemeral");
  assert.deepEqual(page.data, ["x", "ephemeral"]);
  assert.deepEqual(subscription.position, { epoch: "e", offset: 8 });
  assert.deepEqual(page.publications[0], { channel: "a", data: "x", offset: 8, tags: undefined, info: undefined, recovered: false });
});

test("what was missed arrives once, in order and marked, and what follows is live", async () => {
  const [page, subscription] = await live("a");
  const states = [];
  subscription.on("state", ({ state }) => states.push(state));
  page.socket.publish("a", 8, 8);
  await reconnect(page);
  assert.deepEqual(page.socket.sent("subscribe"), [{ id: 2, channel: "a", recover: true, epoch: "e", offset: 8 }]);
  page.socket.publish("a", "before the reply", 9);
  const publications = [9, 10].map((offset) => ({ data: offset, offset }));
  page.socket.reply("subscribe", { recoverable: true, was_recovering: true, recovered: true, epoch: "e", offset: 10, publications });
  page.socket.publish("a", 10, 10);
  page.socket.publish("a", 11, 11);
  assert.deepEqual(page.publications.map(({ data, recovered }) => [data, recovered]), [[8, false], [9, true], [10, true], [11, false]]);
  assert.deepEqual(states, ["waiting", "catching up", "live"]);
  assert.deepEqual(page.gaps, []);
});

test("a gap says where the channel continues", async () => {
  const [page, subscription] = await live("a");
  await reconnect(page);
  page.socket.reply("subscribe", { recoverable: true, was_recovering: true, recovered: false, epoch: "f", offset: 3 });
  page.socket.publish("a", "after", 4);
  assert.deepEqual(page.gaps, [{ channel: "a", epoch: "f", offset: 3 }]);
  assert.deepEqual(subscription.position, { epoch: "f", offset: 4 });
  assert.deepEqual(page.publications.map(({ data, recovered }) => [data, recovered]), [["after", false]]);
});

test("a subscription starts after the position that the page gives", async () => {
  const page = new Page();
  page.gateway.subscribe("a", { since: { epoch: "x", offset: 2, more: "is left out" } });
  await page.connect();
  assert.deepEqual(page.socket.sent("subscribe"), [{ id: 2, channel: "a", recover: true, epoch: "x", offset: 2 }]);
});

test("a subscription that the server ends for a lost state is made again where it was", async () => {
  const [page, subscription] = await live("a");
  page.socket.push("a", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  assert.equal(subscription.state, "waiting");
  await page.advance(500);
  assert.deepEqual(page.socket.sent("subscribe")[1], { id: 3, channel: "a", recover: true, epoch: "e", offset: 7 });
});

test("a subscription that the server ends for good is refused until the page subscribes again", async () => {
  const [page, subscription] = await live("a");
  page.socket.push("a", { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  await page.advance(100_000);
  assert.equal(subscription.state, "refused");
  assert.equal(page.gateway.subscribe("a"), subscription);
  assert.equal(page.socket.sent("subscribe").length, 2);
});

test("a temporary error is tried again with a backoff, and a refusal is not", async () => {
  const page = new Page();
  const [busy, closed] = [page.gateway.subscribe("busy"), page.gateway.subscribe("closed")];
  await settled();
  page.socket.open();
  await settled();
  page.socket.reply("connect", {});
  page.socket.refuse("subscribe", { code: 100, message: "internal server error", temporary: true }, 0);
  page.socket.refuse("subscribe", { code: 103, message: "permission denied" }, 1);
  await page.advance(500);
  assert.deepEqual([busy.state, closed.state], ["catching up", "refused"]);
  page.socket.refuse("subscribe", { code: 111, message: "too many requests", temporary: true });
  await page.advance(999);
  assert.equal(page.socket.sent("subscribe").length, 3);
  await page.advance(1);
  assert.equal(page.socket.sent("subscribe").length, 4);
});

test("a subscribe that is not answered in time costs the connection", async () => {
  const [page] = await live();
  page.gateway.subscribe("a");
  await page.advance(5000);
  assert.deepEqual(page.states.at(-1).code, "timeout");
});

test("joins and leaves reach the subscription and the gateway", async () => {
  const page = new Page();
  const subscription = page.gateway.subscribe("a", { joinLeave: true });
  const seen = [];
  subscription.on("join", ({ info }) => seen.push(["join", info.user])).on("leave", ({ info }) => seen.push(["leave", info.user]));
  page.gateway.on("join", ({ channel }) => seen.push(["gateway", channel]));
  await page.connect();
  page.socket.push("a", { join: { info: { user: "bob" } } });
  page.socket.push("a", { leave: { info: { user: "bob" } } });
  assert.deepEqual(seen, [["join", "bob"], ["gateway", "a"], ["leave", "bob"]]);
});

// The server's own.

test("a channel to which the server subscribes the client is received, and recovered in the connect command", async () => {
  const page = new Page();
  await page.connect({ subs: { "news:all": { recoverable: true, epoch: "n", offset: 1 } } });
  page.socket.publish("news:all", "live", 2);
  await reconnect(page);
  assert.equal(page.socket.frames[0].length, 1);
  assert.deepEqual(page.socket.sent("connect")[0].subs, { "news:all": { recover: true, epoch: "n", offset: 2 } });
});

test("a channel to which the server subscribes the client later is received from then on", async () => {
  const page = new Page();
  await page.connect();
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 4 } });
  page.socket.publish("room", "x", 5);
  assert.deepEqual(page.data, ["x"]);
});

test("a component that follows a channel of the server and leaves does not end it", async () => {
  const page = new Page();
  await page.connect({ subs: { "notifications:ann": {} } });
  const subscription = page.gateway.subscribe("notifications:ann");
  subscription.unsubscribe();
  assert.equal(subscription.state, "live");
  page.gateway.unsubscribe("notifications:ann");
  assert.equal(subscription.state, "closed");
});

const OWN = "notifications:ann";

test("a component that followed the user's own channel before the server did leaves it to the page", async () => {
  const page = new Page({ token: jwt("ann") });
  const component = page.gateway.subscribe(OWN);
  await page.connect({ subs: { [OWN]: { recoverable: true, ...POSITION } } });
  component.unsubscribe();
  page.socket.publish(OWN, "later", 8);
  assert.deepEqual([component.state, page.socket.sent("unsubscribe"), page.data], ["live", [], ["later"]]);
});

test("the user's own channel, which a component left before the reply to connect, is followed all the same", async () => {
  const page = new Page({ token: jwt("ann") });
  const component = page.gateway.subscribe(OWN);
  await settled();
  page.socket.open();
  component.unsubscribe();
  page.socket.reply("connect", { subs: { [OWN]: { recoverable: true, ...POSITION } } });
  page.socket.reply("subscribe", { recoverable: true, ...POSITION }, 0);
  page.socket.reply("unsubscribe", {});
  assert.deepEqual(page.socket.sent("subscribe").map(({ channel }) => channel), [OWN, OWN], "the first one took the place of the server's");
  page.socket.reply("subscribe", { recoverable: true, ...POSITION });
  page.socket.publish(OWN, "later", 8);
  assert.deepEqual([component.state, page.data], ["closed", ["later"]]);
});

test("a page that subscribes with a token to what the server added before uses the token when it has to ask itself", async () => {
  const page = new Page();
  await page.connect();
  page.socket.push("ticket:1", { subscribe: { recoverable: true, epoch: "e", offset: 7 } });
  const ticket = page.gateway.subscribe("ticket:1", { token: () => jwt("ticket") });
  assert.equal(ticket.state, "live");
  await reconnect(page);
  await settled();
  assert.equal(page.socket.sent("subscribe")[0].token, jwt("ticket"));
});

test("a channel that the page follows and the server adds later outlives the page's unsubscribe", async () => {
  const [page, subscription] = await live("room");
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "e", offset: 7 } });
  subscription.unsubscribe();
  page.socket.publish("room", "x", 8);
  assert.deepEqual([subscription.state, page.data], ["live", ["x"]]);
});

const refused = { code: 103, message: "permission denied" };

test("a channel that a backend adds from a position is received from there", async () => {
  const page = new Page();
  await page.connect();
  page.socket.push("room", { subscribe: { recoverable: true, recovered: true, was_recovering: true, epoch: "r", offset: 4, top: 5 } });
  page.socket.publish("room", "missed", 5);
  page.socket.publish("room", "live", 6);
  assert.deepEqual(page.publications.map(({ data, recovered }) => [data, recovered]), [["missed", true], ["live", false]]);
});

test("a channel that a backend adds again after a reconnect has a gap, unless it continues where it was", async () => {
  for (const [start, gaps] of [[{ epoch: "r", offset: 5 }, 0], [{ epoch: "r", offset: 9 }, 1], [{ epoch: "s", offset: 1 }, 1]]) {
    const page = new Page();
    await page.connect();
    page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 5 } });
    await reconnect(page);
    page.socket.refuse("subscribe", refused);
    page.socket.push("room", { subscribe: { recoverable: true, ...start } });
    page.socket.publish("room", "next", start.offset + 1);
    assert.deepEqual([page.data, page.gaps], [["next"], Array(gaps).fill({ channel: "room", ...start })]);
  }
});

test("a channel that a backend adds is received although the page's own subscribe is refused after that", async () => {
  const page = new Page();
  await page.connect();
  const room = page.gateway.subscribe("room");
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 5 } });
  page.socket.publish("room", "at once", 6);
  page.socket.refuse("subscribe", refused);
  page.socket.publish("room", "later", 7);
  assert.deepEqual([room.state, page.data], ["live", ["at once", "later"]]);
  page.gateway.unsubscribe("room");
  assert.equal(room.state, "live", "the server's subscription is there still");
});

test("a channel that a backend adds and ends before the page's own subscribe is refused stays refused", async () => {
  const page = new Page();
  await page.connect();
  const room = page.gateway.subscribe("room");
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 5 } });
  page.socket.push("room", { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  page.socket.refuse("subscribe", refused);
  assert.equal(room.state, "refused");
});

test("a channel that a backend added and ended is the page's alone when the page follows it after that", async () => {
  const page = new Page();
  await page.connect();
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 5 } });
  page.socket.push("room", { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  const room = page.gateway.subscribe("room");
  page.socket.reply("subscribe", { recoverable: true, epoch: "r", offset: 5 });
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 5 } });
  page.socket.push("room", { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  assert.equal(room.state, "refused");
  page.gateway.subscribe("room");
  page.socket.reply("subscribe", { recoverable: true, epoch: "r", offset: 5 });
  for (let left = 2; left; left--) room.unsubscribe();
  assert.deepEqual([room.state, page.socket.sent("unsubscribe").length], ["closed", 1]);
});

test("a channel that a backend added and ended is not asked for by a page that never followed it", async () => {
  const page = new Page();
  await page.connect();
  page.socket.push("room", { subscribe: { recoverable: true, epoch: "r", offset: 5 } });
  page.socket.push("room", { unsubscribe: { code: 2000, reason: "server unsubscribe" } });
  page.gateway.disconnect();
  page.gateway.connect();
  await page.connect();
  assert.deepEqual(page.socket.sent("subscribe"), []);
});

// Components that share a channel.

test("a channel that two components follow ends with the second unsubscribe, not with the first", async () => {
  const [page, first] = await live("a");
  const second = page.gateway.subscribe("a");
  assert.equal(second, first);
  assert.equal(page.socket.sent("subscribe").length, 1);
  first.unsubscribe();
  page.socket.publish("a", "still here", 8);
  assert.deepEqual(page.data, ["still here"]);
  assert.deepEqual(page.socket.sent("unsubscribe"), []);
  page.gateway.unsubscribe("a");
  assert.equal(second.state, "closed");
  assert.deepEqual(page.socket.sent("unsubscribe"), [{ id: 3, channel: "a" }]);
});

test("a channel that was left can be followed again", async () => {
  const [page, left] = await live("a");
  left.unsubscribe();
  left.unsubscribe();
  const again = page.gateway.subscribe("a");
  assert.notEqual(again, left);
  page.socket.reply("subscribe", { recoverable: true, epoch: "e", offset: 9 });
  page.socket.publish("a", "x", 10);
  left.unsubscribe();
  assert.deepEqual([again.state, page.data], ["live", ["x"]]);
});

test("a channel that was left and is followed again is not ended by what the server sent about the one before", async () => {
  const [page, left] = await live("a");
  left.unsubscribe();
  const again = page.gateway.subscribe("a");
  page.socket.push("a", { unsubscribe: { code: 2500, reason: "insufficient state" } });
  await page.advance(500);
  assert.equal(page.socket.sent("subscribe").length, 2);
  page.socket.reply("subscribe", { recoverable: true, epoch: "e", offset: 9 });
  assert.equal(again.state, "live");
});

test("other options on a second subscribe are an error that names them, and count nothing", async () => {
  const page = new Page();
  const options = { since: { epoch: "e", offset: 1 }, token: jwt("a"), joinLeave: true };
  const subscription = page.gateway.subscribe("a", options);
  const differing = [["since", { epoch: "e", offset: 2 }], ["token", jwt("b")], ["token", () => jwt("a")], ["joinLeave", false]];
  for (const [name, value] of differing) {
    const other = () => page.gateway.subscribe("a", { ...options, [name]: value });
    assert.throws(other, ({ code, message }) => code === "options" && message.includes(`with another value of ${name}:`), name);
  }
  page.gateway.subscribe("a", { ...options, since: { ...options.since } });
  page.gateway.subscribe("a");
  for (let left = 3; left; left--) subscription.unsubscribe();
  assert.equal(subscription.state, "closed");
});

test("two components with token functions of their own share a channel", () => {
  const page = new Page();
  const token = () => jwt("a");
  assert.equal(page.gateway.subscribe("a", { token }), page.gateway.subscribe("a", { token: () => jwt("a") }));
});

test("a subscribe without a channel throws in the page, and harms nothing", async () => {
  const [page] = await live("a");
  for (const channel of [undefined, null, "", 17, {}, "half \ud83d"]) assert.throws(() => page.gateway.subscribe(channel), TypeError);
  for (const call of ["publish", "history", "rpc"]) assert.ok((await Page.failure(page.gateway[call](undefined))) instanceof TypeError);
  assert.equal(page.socket.commands.length, 2);
  assert.equal(page.gateway.state, "connected");
});

// Listeners.

test("what on() returns removes the listener, and every listener that was chained to it", async () => {
  const [page, subscription] = await live("a");
  const seen = [];
  const stop = subscription.on("publication", ({ data }) => seen.push(data)).on("gap", () => seen.push("gap"));
  subscription.on("publication", ({ data }) => seen.push(`other ${data}`));
  page.socket.publish("a", 1, 8);
  stop();
  stop();
  page.socket.publish("a", 2, 9);
  page.socket.push("a", { gap: { epoch: "e", offset: 20 } });
  assert.deepEqual(seen, [1, "other 1", "other 2"]);
});

test("one function that two components add is called twice, and removing one leaves the other", async () => {
  const [page, subscription] = await live("a");
  const seen = [];
  const show = ({ data }) => seen.push(data);
  const stop = subscription.on("publication", show);
  subscription.on("publication", show);
  page.socket.publish("a", 1, 8);
  stop();
  page.socket.publish("a", 2, 9);
  subscription.off("publication", show);
  page.socket.publish("a", 3, 10);
  assert.deepEqual(seen, [1, 1, 2]);
});

test("a listener that another one removes is not called any more", async () => {
  const [page, subscription] = await live("a");
  subscription.on("publication", () => stop());
  const stop = subscription.on("publication", () => assert.fail("it was removed"));
  page.socket.publish("a", 1, 8);
  assert.deepEqual([page.data, page.errors], [[1], []]);
});

test("a listener that throws harms neither the others nor the connection", async () => {
  const [page, subscription] = await live("a");
  const fault = new Error("of the page");
  subscription.on("publication", () => { throw fault; });
  page.socket.publish("a", 1, 8);
  page.socket.publish("a", 2, 9);
  assert.deepEqual([page.data, page.errors], [[1, 2], [fault, fault]]);
});

test("a listener may disconnect, connect, subscribe, unsubscribe and publish, whatever it is notified of", async () => {
  const page = new Page();
  const [a, left] = [page.gateway.subscribe("a"), page.gateway.subscribe("left")];
  const published = [];
  page.gateway.on("state", ({ state }) => state === "connected" && page.sockets.length === 1 && page.gateway.disconnect());
  await page.connect({ subs: { "notifications:ann": { recoverable: true, epoch: "e", offset: 1 } } });
  assert.deepEqual([page.gateway.state, a.state], ["closed", "waiting"]);
  page.gateway.connect();
  await page.connect();
  a.on("state", ({ state }) => {
    if (state === "refused") return page.gateway.connect();
    if (state !== "waiting" || published.length) return;
    left.unsubscribe();
    page.gateway.subscribe("b");
    published.push(Page.failure(page.gateway.publish("b", 1)));
  });
  page.socket.end();
  await page.advance(500);
  await page.connect();
  assert.deepEqual(page.socket.sent("subscribe").map(({ channel }) => channel), ["a", "b"]);
  page.socket.reply("publish", {});
  assert.equal(await published[0], undefined);
  page.socket.end(3503, "force disconnect");
  assert.deepEqual([page.gateway.state, a.state, page.errors], ["connecting", "waiting", []]);
});

test("an event that does not exist, or a handler that is no function, throws", () => {
  const page = new Page();
  assert.throws(() => page.gateway.on("publications", () => {}), /there is no event "publications"; there are publication, gap/);
  assert.throws(() => page.gateway.subscribe("a").on("publication"), TypeError);
});

test("a channel that a listener follows again when it is closed is asked for after its end", async () => {
  const [page, subscription] = await live("a");
  let again;
  subscription.on("state", ({ state }) => state === "closed" && (again = page.gateway.subscribe("a")));
  subscription.unsubscribe();
  assert.deepEqual(page.socket.commands.slice(2).map(({ id, ...command }) => Object.keys(command)[0]), ["unsubscribe", "subscribe"]);
  page.socket.reply("unsubscribe", {});
  page.socket.reply("subscribe", { recoverable: true, ...POSITION });
  assert.equal(again.state, "live");
});

test("a gateway that a listener closes because a channel was refused is closed at the end, and not refused", async () => {
  const [page, subscription] = await live("a");
  subscription.on("state", ({ state }) => state === "refused" && page.gateway.close());
  page.socket.end(3503, "force disconnect");
  assert.deepEqual([page.gateway.state, page.states.at(-1).state, subscription.state], ["closed", "closed", "closed"]);
});

// Where a server renders the page.

test("a server without WebSocket imports the module and makes a gateway, and only connect() throws", async () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  const gateway = new Gateway({ token: () => assert.fail("nobody connects") });
  gateway.subscribe("a").on("publication", () => {});
  await settled();
  assert.equal(gateway.state, "closed");
  assert.throws(() => gateway.connect(), ({ name, code }) => name === "GatewayError" && code === "platform");
  gateway.close();
  if (WebSocket) globalThis.WebSocket = WebSocket;
});

test("a program that passes a WebSocket must name its gateway, by an absolute URL", () => {
  const platform = { WebSocket: class {} };
  for (const url of [undefined, "/gateway"]) assert.throws(() => new Gateway({ url, platform }).connect(), GatewayError);
  new Gateway({ url: GATEWAY, platform }).close();
});
