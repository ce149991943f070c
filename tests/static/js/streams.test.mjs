// Server-sent events, where WebSocket does not get through.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Page, jwt, settled } from "./kit.mjs";

/** A page that an event stream serves, with its channels open at the position e:7. */
async function streaming(channels, options = {}) {
  const page = new Page(options);
  for (const [channel, own] of Object.entries(channels)) page.gateway.subscribe(channel, own);
  await page.fallBack();
  opened(page);
  return page;
}

function opened(page, results = {}) {
  const { channels } = page.stream;
  const begun = (channel) => [channel, results[channel] ?? { recovered: false, epoch: "e", offset: 7 }];
  const tops = Object.fromEntries(channels.map((channel) => [channel, 7]));
  page.stream.send("connected", { channels: Object.fromEntries(channels.map(begun)), tops });
}

/** Waits for the next event stream; meanwhile WebSockets do not open. */
async function nextStream(page) {
  await settled();
  for (const { length } = page.streams; page.streams.length === length; ) {
    const { state, retryMs } = page.states.at(-1);
    if (state === "waiting") await page.advance(retryMs);
    else page.socket.end();
  }
}

test("two WebSockets that do not open although the gateway answers HTTP lead to an event stream", async () => {
  const page = await streaming({ a: {}, b: {} }, { token: jwt("ann") });
  assert.equal(page.sockets.length, 2);
  assert.ok(page.requests.every(({ url }) => url.pathname === "/health/ready"));
  assert.equal(page.stream.url.href, `https://gateway.example/sse?channel=a&channel=b&token=${jwt("ann")}&pings=1`);
  assert.deepEqual(page.states.at(-1), { state: "connected", transport: "sse" });
  page.stream.send("message", { channel: "a", data: "x", offset: 8 });
  assert.deepEqual(page.data, ["x"]);
});

test("two WebSockets that open and bring nothing lead to an event stream, where the gateway is ready", async () => {
  for (const ok of [true, false]) {
    const page = new Page();
    page.answer = () => ({ ok });
    page.gateway.subscribe("a");
    for (let attempt = 0; attempt < 2; attempt++) {
      await settled();
      page.socket.open();
      await page.advance(5000);
      await page.advance(page.states.at(-1).retryMs);
    }
    assert.equal(page.streams.length, ok ? 1 : 0);
  }
});

test("a channel that is followed first after long without any is opened as a stream at once", async () => {
  const page = new Page();
  for (let attempt = 0; attempt < 8; attempt++) {
    await settled();
    page.socket.end();
    if (attempt < 7) await page.advance(page.states.at(-1).retryMs);
  }
  await settled();
  for (const channel of ["a", "b"]) page.gateway.subscribe(channel);
  await settled();
  assert.deepEqual([page.streams.length, page.stream.channels], [1, ["a", "b"]]);
});

test("a gateway that is down is not taken for a blocked WebSocket", async () => {
  const page = new Page();
  page.answer = () => Promise.reject(new TypeError("Failed to fetch"));
  page.gateway.subscribe("a");
  for (let attempt = 0; attempt < 10; attempt++) {
    await settled();
    page.socket.end();
    await page.advance(30_000);
  }
  assert.equal(page.streams.length, 0);
});

test("an HTTP request that hangs ends in time", async () => {
  const page = new Page({ longestBackoffMs: 10 });
  page.gateway.subscribe("a");
  let aborted = 0;
  page.answer = (url, { signal }) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => (aborted += 1, reject(signal.reason))));
  await settled();
  page.socket.end();
  await page.advance(5010);
  assert.equal(aborted, 1);
});

test("a stream that ends is followed by another attempt of WebSocket, and then by a stream after the last position", async () => {
  const page = await streaming({ a: {} });
  page.stream.send("message", { channel: "a", data: "x", offset: 8 });
  page.stream.end();
  await page.advance(page.states.at(-1).retryMs);
  assert.equal(page.sockets.length, 3);
  page.socket.end();
  await page.advance(page.states.at(-1).retryMs);
  assert.equal(page.stream.url.searchParams.get("last_event_id"), "e:8");
  opened(page, { a: { recovered: true, epoch: "e", offset: 8 } });
  page.stream.send("message", { channel: "a", data: "missed", offset: 9 });
  page.stream.send("gap", { channel: "a", epoch: "f", offset: 1 });
  assert.deepEqual(page.data, ["x", "missed"]);
  assert.deepEqual(page.gaps, [{ channel: "a", epoch: "f", offset: 1 }]);
});

test("a stream that is cut before the event of its gap does not hide the gap", async () => {
  const page = await streaming({ a: {} });
  page.stream.end();
  await nextStream(page);
  opened(page, { a: { recovered: false, epoch: "f", offset: 1 } });
  page.stream.end();
  await nextStream(page);
  assert.equal(page.stream.url.searchParams.get("last_event_id"), "e:7");
  opened(page, { a: { recovered: false, epoch: "f", offset: 2 } });
  page.stream.send("gap", { channel: "a", epoch: "f", offset: 2 });
  page.stream.send("message", { channel: "a", data: "after", offset: 3 });
  assert.deepEqual([page.gaps, page.data], [[{ channel: "a", epoch: "f", offset: 2 }], ["after"]]);
});

test("a gap into another epoch ends what a stream was recovering", async () => {
  const page = await streaming({ a: {} });
  const subscription = page.gateway.subscribe("a");
  page.stream.end();
  await nextStream(page);
  page.stream.send("connected", { channels: { a: { recovered: true, epoch: "e", offset: 7 } }, tops: { a: 9 } });
  page.stream.send("gap", { channel: "a", epoch: "f", offset: 0 });
  assert.equal(subscription.state, "live");
  page.stream.send("message", { channel: "a", data: "new", offset: 1 });
  assert.equal(page.publications.at(-1).recovered, false);
});

test("channels that are subscribed or unsubscribed in one turn are one new stream", async () => {
  const page = await streaming({ a: {}, b: {} });
  page.gateway.subscribe("c");
  page.gateway.unsubscribe("b");
  await settled();
  assert.equal(page.streams.length, 2);
  assert.deepEqual(page.stream.channels, ["a", "c"]);
  assert.equal(page.stream.url.searchParams.get("last_event_id"), "e:7,-");
});

test("what needs an answer is rejected with the code sse, and joinLeave says so in the state", async () => {
  const page = await streaming({ a: {} });
  const error = await Page.failure(page.gateway.publish("a", 1));
  assert.deepEqual([error.name, error.code], ["GatewayError", "sse"]);
  assert.match(error.message, /^publish needs WebSocket/);
  const room = page.gateway.subscribe("room", { joinLeave: true });
  const states = [];
  room.on("state", (event) => states.push(event));
  await settled();
  opened(page);
  assert.deepEqual([states.at(-1).state, states.at(-1).code], ["live", "sse"]);
});

test("a stream whose token ends soon is replaced by one with another token, without a pause", async () => {
  const tokens = [jwt("a"), jwt("b"), jwt("c"), jwt("d")];
  const page = await streaming({ a: {} }, { token: () => tokens.shift() });
  page.stream.send("expiring", {});
  await settled();
  assert.equal(page.streams.length, 2);
  assert.notEqual(page.streams[0].url.searchParams.get("token"), page.stream.url.searchParams.get("token"));
});

test("a channel that is refused leaves the stream of the others", async () => {
  const page = await streaming({ a: {}, closed: {} });
  const closed = page.gateway.subscribe("closed");
  page.stream.send("refused", { code: 103, message: "permission denied", channel: "closed" });
  await settled();
  assert.equal(closed.state, "refused");
  assert.deepEqual(page.stream.channels, ["a"]);
});

test("a channel's token that is refused is replaced three times, then its channel is refused alone", async () => {
  let asked = 0;
  const page = await streaming({ a: {}, ticket: { token: () => (asked++, jwt("ticket")) } });
  const ticket = page.gateway.subscribe("ticket");
  for (let round = 0; round < 3; round++) {
    page.stream.send("refused", { code: 3500, message: "invalid token", channel: "ticket" });
    await nextStream(page);
    assert.deepEqual(page.stream.channels, ["a", "ticket"]);
  }
  page.stream.send("refused", { code: 3500, message: "invalid token", channel: "ticket" });
  await settled();
  assert.equal(asked, 4);
  assert.equal(ticket.state, "refused");
  assert.deepEqual(page.stream.channels, ["a"]);
});

test("a channel that the gateway refuses with a status, as of no namespace, is refused alone", async () => {
  const page = new Page();
  const typo = page.gateway.subscribe("typo:1");
  await page.fallBack();
  const answers = [{ error: "no namespace is named typo", code: 102, channel: "typo:1" }];
  page.answer = () => ({ ok: false, status: 400, json: async () => answers.shift() });
  page.stream.refuse();
  await settled();
  assert.deepEqual([page.requests.at(-1).url.href, answers], [page.streams[0].url.href, []]);
  assert.equal(typo.state, "refused");
  page.gateway.subscribe("a");
  await nextStream(page);
  assert.deepEqual([page.streams.length, page.stream.channels], [2, ["a"]]);
});

test("a stream that the gateway refuses as a whole ends the attempts, and one that a proxy refuses does not", async () => {
  const page = new Page();
  page.gateway.subscribe("a");
  await page.fallBack();
  page.answer = ({ pathname }) => ({ ok: pathname !== "/sse", json: () => Promise.reject(new SyntaxError("it is HTML")) });
  page.stream.refuse();
  await nextStream(page);
  page.answer = () => ({ ok: false, json: async () => ({ error: "200 channels in one stream; at most 146", code: 106 }) });
  page.stream.refuse();
  await settled();
  assert.deepEqual(page.states.at(-1), { state: "refused", code: 106, reason: "200 channels in one stream; at most 146" });
});

test("a page that wakes keeps a quiet stream whose pings came, and a stream without them is replaced", async () => {
  globalThis.addEventListener = (event, wake) => event === "online" && (globalThis.wake = wake);
  const page = await streaming({ a: {} });
  delete globalThis.addEventListener;
  page.stream.send("connected", { channels: {}, tops: {}, ping: 25 });
  for (let pings = 0; pings < 4; pings++) {
    await page.advance(25_000);
    globalThis.wake();
    page.stream.send("ping", {});
  }
  assert.deepEqual([page.streams.length, page.gateway.state], [1, "connected"]);
  await page.advance(35_000);
  assert.deepEqual(page.states.at(-1), { state: "waiting", code: "timeout", reason: "nothing came from the gateway", retryMs: 500 });
  delete globalThis.wake;
});

test("a listener that disconnects because a channel is refused is not connected again", async () => {
  const page = await streaming({ a: {}, closed: {} });
  page.gateway.subscribe("closed").on("state", () => page.gateway.disconnect());
  page.stream.send("refused", { code: 103, message: "permission denied", channel: "closed" });
  await page.advance(100_000);
  assert.deepEqual([page.gateway.state, page.streams.length], ["closed", 1]);
});

test("a refused connection token that came from a function is replaced", async () => {
  const page = await streaming({ a: {} }, { token: () => jwt("a") });
  page.stream.send("refused", { code: 3500, message: "invalid token" });
  assert.equal(page.gateway.state, "waiting");
  const fixed = await streaming({ a: {} }, { token: jwt("a") });
  fixed.stream.send("refused", { code: 3500, message: "invalid token" });
  assert.equal(fixed.gateway.state, "refused");
});
