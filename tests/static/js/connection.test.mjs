// The life of a connection: connect, pings, silence, loss, backoff, refusal.

import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";

import { Page, jwt, settled } from "./kit.mjs";

const codes = (page) => page.states.map(({ state, code }) => (code ? `${state} ${code}` : state));

test("connect and the first subscribes leave in one frame", async () => {
  const page = new Page({ token: jwt("ann") });
  page.gateway.subscribe("a");
  page.gateway.subscribe("b", { joinLeave: true });
  await page.connect();
  assert.equal(page.socket.url, "wss://gateway.example/connection/websocket");
  assert.deepEqual(page.socket.frames, [
    [
      { id: 1, connect: { token: jwt("ann"), name: "gateway.js", subs: {} } },
      { id: 2, subscribe: { channel: "a" } },
      { id: 3, subscribe: { channel: "b", join_leave: true } },
    ],
  ]);
  assert.deepEqual(codes(page), ["connecting", "connected"]);
});

test("the id of the connection is known while it is connected", async () => {
  const page = new Page();
  assert.equal(page.gateway.client, null);
  await page.connect({ client: "c-1" });
  assert.equal(page.gateway.client, "c-1");
  page.socket.end();
  assert.equal(page.gateway.client, null);
  await page.advance(500);
  await page.connect({ client: "c-2" });
  assert.equal(page.gateway.client, "c-2");
});

test("a ping is answered where the gateway asks for pongs", async () => {
  const page = new Page();
  await page.connect({ ping: 25, pong: true });
  page.socket.receive({});
  assert.deepEqual(page.socket.frames.at(-1), [{}]);
});

test("a connection that does not open in time is replaced after a backoff", async () => {
  const page = new Page();
  await page.advance(5000);
  assert.equal(page.sockets[0].isClosed, true);
  assert.deepEqual(page.states.at(-1), { state: "waiting", code: "timeout", reason: "the connection did not open in time", retryMs: 500 });
  await page.advance(500);
  assert.equal(page.sockets.length, 2);
});

test("a connection without its ping is dead after the silence that is allowed, and not before", async () => {
  const page = new Page({ silenceMs: 1000 });
  await page.connect({ ping: 25 });
  await page.advance(25_000);
  page.socket.receive({});
  await page.advance(25_999);
  assert.equal(page.gateway.state, "connected");
  await page.advance(1);
  assert.deepEqual(codes(page).at(-1), "waiting timeout");
});

test("a clock that is set back by an hour does not hide for an hour that a connection is dead", async () => {
  let backMs = 0;
  const page = new Page({ silenceMs: 1000, platform: { now: () => page.clock.now() - backMs } });
  await page.connect({ ping: 25 });
  backMs = 3_600_000;
  await page.advance(52_000); // the silence that is allowed begins anew once
  assert.deepEqual(codes(page).at(-1), "waiting timeout");
});

test("each failure doubles the backoff up to the longest, and a steady connection starts it anew", async () => {
  const page = new Page({ backoffMs: 100, longestBackoffMs: 1000 });
  const waits = [];
  for (let failures = 0; failures < 6; failures++) {
    await settled();
    page.socket.end();
    waits.push(page.states.at(-1).retryMs);
    await page.advance(waits.at(-1));
  }
  assert.deepEqual(waits, [100, 200, 400, 800, 1000, 1000]);
  await page.connect();
  page.socket.end();
  assert.equal(page.states.at(-1).retryMs, 1000, "it held for no time");
  await page.advance(1000);
  await page.connect();
  await page.advance(5001);
  page.socket.end();
  assert.equal(page.states.at(-1).retryMs, 100);
});

test("a backoff is a random share of its length", async () => {
  const page = new Page({ backoffMs: 100, platform: { random: () => 0.25 } });
  await settled();
  page.socket.end();
  assert.equal(page.states.at(-1).retryMs, 25);
});

test("a close code that is final ends the attempts, and connect() begins them again", async () => {
  const page = new Page();
  const subscription = page.gateway.subscribe("a");
  await page.connect();
  page.socket.end(3503, "force disconnect");
  await page.advance(100_000);
  assert.deepEqual(page.states.at(-1), { state: "refused", code: 3503, reason: "force disconnect" });
  assert.equal(subscription.state, "refused");
  assert.equal(page.sockets.length, 1);
  page.gateway.connect();
  await page.connect();
  assert.equal(subscription.state, "live");
});

test("a close code that is temporary leads to another connection", async () => {
  const page = new Page();
  await page.connect();
  page.socket.end(3001, "shutdown");
  await page.advance(500);
  await page.connect();
  assert.deepEqual(codes(page), ["connecting", "connected", "waiting 3001", "connecting", "connected"]);
});

test("disconnect closes the connection, and connect continues at the same positions", async () => {
  const page = new Page();
  page.gateway.subscribe("a");
  await page.connect();
  page.gateway.disconnect();
  assert.equal(page.gateway.state, "closed");
  assert.equal(page.sockets[0].isClosed, true);
  await page.advance(100_000);
  assert.equal(page.sockets.length, 1);
  page.gateway.connect();
  await page.connect();
  assert.deepEqual(page.socket.sent("subscribe"), [{ id: 2, channel: "a", recover: true, epoch: "e", offset: 7 }]);
});

test("a listener that disconnects when its channel loses the connection is not connected again", async () => {
  const page = new Page();
  page.gateway.subscribe("a").on("state", ({ state }) => state === "waiting" && page.gateway.disconnect());
  await page.connect();
  page.socket.end();
  await page.advance(100_000);
  assert.deepEqual([page.gateway.state, page.sockets.length], ["closed", 1]);
});

test("a channel that a listener of another one ends, when the connection is lost, stays closed", async () => {
  const page = new Page();
  const [first, second] = ["a", "b"].map((channel) => page.gateway.subscribe(channel));
  await page.connect();
  first.on("state", () => second.unsubscribe());
  page.socket.end();
  assert.equal(second.state, "closed");
});

test("channels that a listener ends before they are asked for are not asked for, and connect remains the first command", async () => {
  const page = new Page();
  const [first, second] = ["a", "b"].map((channel) => page.gateway.subscribe(channel));
  second.on("state", () => [first, second].forEach((each) => each.unsubscribe()));
  page.gateway.subscribe("c");
  await page.connect();
  assert.deepEqual(page.socket.commands.map((command) => Object.keys(command)[1]), ["connect", "subscribe"]);
  assert.equal(page.socket.sent("subscribe")[0].channel, "c");
});

test("a listener that disconnects while channels are asked for, or are to be asked for again, leaves nothing that waits", async () => {
  for (const state of ["catching up", "waiting"]) {
    const page = new Page();
    const [first] = ["a", "b"].map((channel) => page.gateway.subscribe(channel));
    first.on("state", (event) => event.state === state && page.gateway.disconnect());
    await settled();
    page.socket.open();
    const isOpen = page.gateway.state === "connecting";
    if (isOpen) page.socket.reply("connect", {});
    if (isOpen) page.socket.refuse("subscribe", { code: 100, message: "internal server error", temporary: true }, 0);
    assert.deepEqual([page.gateway.state, first.state, page.clock.waiting], ["closed", "waiting", 0]);
  }
});

test("close ends the subscriptions, however many components share them, and leaves no timer", async () => {
  const page = new Page({ token: () => jwt("ann") });
  const subscription = page.gateway.subscribe("a");
  page.gateway.subscribe("a");
  await page.connect({ ping: 25, ttl: 3600 });
  page.gateway.close();
  assert.equal(subscription.state, "closed");
  assert.equal(page.clock.waiting, 0);
});

test("commands that waited for a connection leave no timer, whether they were sent or the gateway was closed", async () => {
  const page = new Page();
  const published = page.gateway.publish("a", 1);
  await page.connect();
  page.socket.reply("publish", {});
  await published;
  assert.equal(page.clock.waiting, 0);
  page.socket.end();
  const rejected = Page.failure(page.gateway.publish("a", 2));
  page.gateway.close();
  assert.deepEqual([(await rejected).code, page.clock.waiting], ["closed", 0]);
});

test("what a replaced connection still brings is ignored", async () => {
  const page = new Page();
  page.gateway.subscribe("a");
  await settled();
  const { onopen, onmessage, onclose } = page.socket;
  await page.advance(5500);
  await page.connect();
  onopen();
  onmessage({ data: '{"push":{"channel":"a","pub":{"data":1,"offset":8}}}' });
  onclose({ code: 3503, reason: "" });
  assert.deepEqual([page.gateway.state, page.data], ["connected", []]);
});

test("a page that wakes asks whether the connection works, and does not wait for a backoff", async () => {
  globalThis.addEventListener = (event, wake) => event === "online" && (globalThis.wake = wake);
  const page = new Page({ timeoutMs: 300 });
  delete globalThis.addEventListener;
  await page.connect();
  globalThis.wake();
  assert.equal(page.socket.commands.at(-1).id, 2, "a ping");
  await page.advance(300);
  assert.deepEqual(page.states.at(-1), { state: "waiting", code: "timeout", reason: "the gateway did not answer", retryMs: 500 });
  globalThis.wake();
  await settled();
  assert.equal(page.sockets.length, 2);
  delete globalThis.wake;
});

/** As of the package ws: an error for which nobody listens is thrown, and close() makes one of a socket that is not open. */
class NodeSocket extends EventEmitter {
  set onerror(listener) {
    this.on("error", listener);
  }

  close() {
    this.emit("error", new Error("WebSocket was closed before the connection was established"));
  }
}

test("an error of a socket in a program of Node is followed by another attempt, and ends no process", async () => {
  const sockets = [];
  const WebSocket = class extends NodeSocket {
    constructor() {
      super();
      sockets.push(this);
    }
  };
  const page = new Page({ platform: { WebSocket, EventSource: undefined } });
  await settled();
  sockets[0].emit("error", new Error("connect ECONNREFUSED"));
  sockets[0].onclose({ code: 1006, reason: "" });
  await page.advance(500);
  assert.equal(sockets.length, 2);
  page.gateway.close();
  assert.equal(page.gateway.state, "closed");
});
