// Commands, the inbox, and what the console shows of refusals.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Page, jwt, settled } from "./kit.mjs";

async function connected(options) {
  const page = new Page(options);
  await page.connect();
  return page;
}

test("a publish is resolved by its reply, and an rpc has its data", async () => {
  const page = await connected();
  const published = page.gateway.publish("a", { n: 1 });
  const called = page.gateway.rpc("shop.order", { id: 17 });
  await settled();
  assert.deepEqual(page.socket.sent("publish"), [{ id: 2, channel: "a", data: { n: 1 } }]);
  page.socket.reply("publish", {});
  page.socket.reply("rpc", { data: { done: true } });
  assert.equal(await published, undefined);
  assert.deepEqual(await called, { done: true });
});

test("presence is a list, and its statistics have plain names", async () => {
  const page = await connected();
  const room = page.gateway.subscribe("room");
  const [clients, stats] = [room.presence(), room.presenceStats()];
  await settled();
  page.socket.reply("presence", { presence: { c1: { user: "ann", client: "c1" } } });
  page.socket.reply("presence_stats", { num_clients: 1, num_users: 1 });
  assert.deepEqual(await clients, [{ user: "ann", client: "c1" }]);
  assert.deepEqual(await stats, { clients: 1, users: 1 });
});

test("an rpc that is not answered in time is rejected, and a late answer is ignored", async () => {
  const page = await connected({ timeoutMs: 1000 });
  const failed = Page.failure(page.gateway.rpc("slow"));
  await page.advance(1000);
  page.socket.reply("rpc", { data: 1 });
  const { code, message } = await failed;
  assert.deepEqual([code, message], ["timeout", "rpc was not answered in time"]);
  assert.equal(page.gateway.state, "connected");
});

test("an error of the server rejects with its code and message", async () => {
  const page = await connected();
  const failed = Page.failure(page.gateway.publish("a", 1));
  await settled();
  page.socket.refuse("publish", { code: 103, message: "permission denied", hint: "publish = \"nobody\"" });
  const { name, code, message, temporary, hint } = await failed;
  assert.deepEqual([name, code, message, temporary, hint], ["GatewayError", 103, "permission denied", false, 'publish = "nobody"']);
});

test("a command whose connection is lost is rejected, because it is not known whether it was carried out", async () => {
  const page = await connected();
  const failed = Page.failure(page.gateway.publish("a", 1));
  await settled();
  page.socket.end();
  assert.equal((await failed).code, "lost");
});

test("commands wait for a connection, in order, and no longer than their time", async () => {
  const page = new Page({ timeoutMs: 1000 });
  const first = Page.failure(page.gateway.publish("a", 1));
  await page.advance(999);
  page.gateway.publish("a", 2);
  await page.advance(1);
  assert.deepEqual([(await first).code, page.sockets.length], ["timeout", 1]);
  await page.advance(500);
  await page.connect();
  assert.deepEqual(page.socket.sent("publish").map(({ data }) => data), [2]);
});

test("what a listener publishes once there is a connection follows what waited for it", async () => {
  const page = new Page();
  page.gateway.on("state", ({ state }) => state === "connected" && page.gateway.publish("a", 2));
  page.gateway.publish("a", 1);
  await page.connect();
  assert.deepEqual(page.socket.sent("publish").map(({ data }) => data), [1, 2]);
});

test("many commands that waited for a connection leave in frames that the gateway takes", async () => {
  const page = new Page();
  const published = Array.from({ length: 10 }, (_, n) => page.gateway.publish("a", `${n}`.repeat(10_000)));
  await page.connect();
  assert.ok(page.socket.frames.every((frame) => JSON.stringify(frame).length < 65_536 / 3));
  assert.deepEqual(page.socket.sent("publish").map(({ data }) => data[0]), [..."0123456789"]);
  for (const { id } of page.socket.sent("publish")) page.socket.receive({ id, publish: {} });
  await Promise.all(published);
});

test("a command that is too large for the gateway fails with the code 1009, and those beside it are lost", async () => {
  const page = await connected();
  const [small, large] = ["small", "large".repeat(20_000)].map((data) => Page.failure(page.gateway.publish("a", data)));
  page.socket.end(1009, "message too big");
  assert.deepEqual([(await small).code, (await large).code], ["lost", 1009]);
  assert.match((await large).message, /^publish is larger than limits.message_bytes .* not carried out/);
  assert.equal(page.gateway.state, "waiting");
});

test("short commands that were too many for one frame leave in shorter ones after that", async () => {
  const page = new Page();
  const publish = () => Promise.all(["a", "b", "c"].map((data) => Page.failure(page.gateway.publish("a", data.repeat(6000)))));
  const longest = () => Math.max(...page.socket.frames.map((frame) => JSON.stringify(frame).length));
  const lost = publish();
  await page.connect();
  assert.ok(longest() > 18_000, String(longest()));
  page.socket.end(1009, "message too big");
  assert.deepEqual((await lost).map(({ code }) => code), ["lost", "lost", "lost"]);
  publish();
  await page.advance(500);
  await page.connect();
  assert.ok(longest() < 10_000, String(longest()));
});

test("a command after disconnect is rejected at once", async () => {
  const page = await connected();
  page.gateway.disconnect();
  const { code, message } = await Page.failure(page.gateway.publish("a", 1));
  assert.deepEqual([code, message], ["closed", "the line is cut; nothing was sent"]);
});

test("data that cannot be JSON fails for its caller, and harms nothing", async () => {
  const page = new Page();
  assert.equal((await Page.failure(page.gateway.publish("a", 1n))).name, "TypeError");
  await page.connect();
  assert.equal(page.gateway.state, "connected");
});

for (const [location, named] of [
  [{ href: "https://shop.example/cart", origin: "https://shop.example", protocol: "https:" }, "of https://shop.example"],
  // Browsers call it file:// here, and "null" to the gateway: allowed_origins cannot have the first.
  [{ href: "file:///index.html", origin: "file://", protocol: "file:" }, 'that was opened as a file, whose origin is "null"; open it from a web server'],
]) test(`a page ${named} that the gateway does not admit is a warning, once`, async () => {
  globalThis.location = location;
  const page = new Page();
  page.answer = () => ({ ok: true, json: async () => ({ status: "ready", refused: "allowed_origins does not list this page's origin" }) });
  for (let attempt = 0; attempt < 3; attempt++) {
    await settled();
    page.socket.end();
    await page.advance(30_000);
  }
  delete globalThis.location;
  const refused = `gateway.js: the gateway admits no page ${named}: allowed_origins does not list this page's origin`;
  assert.deepEqual(page.warnings, [refused]);
});

// The inbox.

test("the inbox asks for its count when its subscription begins, and follows each announcement", async () => {
  const page = await connected({ token: jwt("ann") });
  const counts = [];
  page.gateway.on("unread", (event) => counts.push(event));
  assert.equal(page.gateway.inbox.unread, null);
  page.socket.push("notifications:ann", { subscribe: {} });
  assert.deepEqual(page.socket.sent("rpc").map(({ method, data }) => [method, data]), [["inbox.list", { limit: 0 }]]);
  const announce = (unread, change, more) => page.socket.publish("notifications:ann", { inbox: { unread, change, epoch: "i", ...more } });
  announce(3, 5, { read: ["a"] });
  page.socket.reply("rpc", { data: { unread: 4, change: 4, epoch: "i" } });
  await settled();
  announce(2, 6, { upto: 9 });
  assert.deepEqual(counts, [{ unread: 3, read: ["a"], upto: undefined }, { unread: 2, read: undefined, upto: 9 }]);
  assert.equal(page.gateway.inbox.unread, 2);
  assert.deepEqual(page.data, [], "an announcement is not a notification");
});

test("the inbox's count names what this page marked, although the answer comes before the announcement", async () => {
  const page = await connected({ token: jwt("ann") });
  const counts = [];
  page.gateway.on("unread", (event) => counts.push(event));
  const marks = [{ ids: ["a"] }, { upto: "i:7" }, { all: true }];
  for (const [change, mark] of marks.entries()) {
    const read = page.gateway.inbox.read(mark);
    await settled();
    page.socket.reply("rpc", { data: { unread: 0, change, epoch: "i", offset: 9 } });
    await read;
    page.socket.publish("notifications:ann", { inbox: { unread: 0, change, epoch: "i" } });
  }
  assert.deepEqual(counts.map(({ read, upto }) => [read, upto]), [[["a"], undefined], [undefined, 7], [undefined, 9]]);
});

test("the inbox asks again for its count after a temporary error", async () => {
  const page = await connected();
  page.socket.push("notifications:ann", { subscribe: {} });
  page.socket.refuse("rpc", { code: 100, message: "internal server error", temporary: true });
  await page.advance(1000);
  assert.equal(page.socket.sent("rpc").length, 2);
  page.socket.refuse("rpc", { code: 103, message: "permission denied" });
  await page.advance(10_000);
  assert.equal(page.socket.sent("rpc").length, 2);
});

test("the inbox asks for its count ever more rarely while the errors last", async () => {
  const page = await connected();
  page.socket.push("notifications:ann", { subscribe: {} });
  const away = { code: 100, message: "internal server error", temporary: true };
  for (const [asked, ms] of [500, 1000, 2000, 4000].entries()) {
    page.socket.refuse("rpc", away);
    await page.advance(ms - 1);
    assert.equal(page.socket.sent("rpc").length, asked + 1);
    await page.advance(1);
    assert.equal(page.socket.sent("rpc").length, asked + 2);
  }
  page.socket.reply("rpc", { data: { notifications: [], unread: 1, change: 1, epoch: "i", next: null } });
  await settled();
  page.socket.push("notifications:ann", { subscribe: {} });
  page.socket.refuse("rpc", away);
  await page.advance(500);
  assert.equal(page.socket.sent("rpc").length, 7, "a success begins it anew");
});

test("over event streams the inbox uses HTTP, with the connection's token", async () => {
  const page = new Page({ token: jwt("ann") });
  page.gateway.subscribe("notifications:ann");
  await page.fallBack();
  const list = { notifications: [], unread: 1, change: 1, epoch: "i", next: null };
  page.answer = () => ({ ok: true, json: async () => list });
  page.stream.send("connected", { channels: { "notifications:ann": { epoch: "e", offset: 1 } }, tops: {} });
  assert.deepEqual(await page.gateway.inbox.list({ limit: 5, before: "e:9" }), list);
  await page.gateway.inbox.read({ all: true });
  const [, listed, read] = page.requests.filter(({ url }) => url.pathname.startsWith("/inbox"));
  assert.equal(listed.url.href, `https://gateway.example/inbox?limit=5&before=e%3A9&token=${jwt("ann")}`);
  assert.deepEqual([read.url.pathname, read.options.method, read.options.body], ["/inbox/read", "POST", '{"all":true}']);
  page.answer = () => Promise.reject(new TypeError("Failed to fetch"));
  assert.equal((await Page.failure(page.gateway.inbox.list())).code, "lost");
});

// The console.

async function refusedChannel(options, error = { code: 103, message: "permission denied" }, listen = () => {}) {
  const page = new Page({ silent: true, ...options });
  listen(page.gateway.subscribe("secret"), page.gateway);
  await settled();
  page.socket.open();
  await settled();
  page.socket.reply("connect", {});
  page.socket.refuse("subscribe", error);
  return page.warnings;
}

test("a refused channel is one warning, which shows the gateway's sentence on loopback or with debug alone", async () => {
  const refused = 'gateway.js: the gateway refused to let this page follow "secret" (code 103): ';
  assert.deepEqual(await refusedChannel({}), [`${refused}new Gateway({ debug: true }) shows the gateway's sentence here`]);
  const loopback = ["localhost", "127.0.0.1", "[::1]"].map((host) => ({ url: `http://${host}:8000` }));
  for (const options of [{ debug: true }, ...loopback]) {
    const [warning, ...others] = await refusedChannel(options);
    assert.ok(warning.startsWith(`${refused}permission denied: the rules of the channel do not admit this user`), warning);
    assert.deepEqual(others, []);
  }
  const error = { code: 103, message: "permission denied", hint: "subscribe = \"nobody\"" };
  assert.deepEqual(await refusedChannel({}, error), [`${refused}permission denied: subscribe = "nobody"`], "the gateway chose to send it");
});

test("a refusal that a listener receives is not a warning too", async () => {
  const listen = (subscription) => subscription.on("state", () => {});
  assert.deepEqual(await refusedChannel({}, undefined, listen), []);
  assert.deepEqual(await refusedChannel({ url: "http://localhost:8000" }, undefined, listen), []);
  assert.equal((await refusedChannel({ debug: true }, undefined, listen)).length, 1, "debug shows each refusal");
});

test("a refused connection is one warning, not one for each channel", async () => {
  const page = new Page({ silent: true, debug: true });
  page.gateway.subscribe("a");
  page.gateway.subscribe("b");
  await settled();
  page.socket.open();
  page.socket.end(3500, "invalid token");
  assert.equal(page.warnings.length, 1);
  assert.ok(page.warnings[0].startsWith("gateway.js: the gateway refused the connection of this page (code 3500): invalid token: the gateway's log"), page.warnings[0]);
});

test("a page without a token where one is needed is told to send one, and a page with one to look at the log", async () => {
  const sentences = { "": "bad request: this page sends no token", "a.b.c": "bad request: the gateway could not read a message" };
  for (const [token, sentence] of Object.entries(sentences)) {
    const page = new Page({ silent: true, url: "http://localhost:8000", token });
    page.gateway.subscribe("a");
    await settled();
    page.socket.open();
    await settled();
    page.socket.end(3501, "bad request");
    assert.deepEqual(page.warnings.map((warning) => warning.includes(`(code 3501): ${sentence}`)), [true], page.warnings[0]);
  }
});

test("a token function that fails is one warning until there is a connection again", async () => {
  const page = new Page({ silent: true, token: () => "<!doctype html>" });
  await page.advance(60_000);
  assert.deepEqual(page.warnings, ["gateway.js: the token function failed: it returned something that is not a JWT; let it return the token alone, as text; it is called again"]);
});
