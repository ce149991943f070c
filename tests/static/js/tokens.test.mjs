// Tokens: renewal, functions that fail, refused tokens.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Page, jwt, settled } from "./kit.mjs";

/** A token function that returns these one by one, the last for ever; an Error is thrown. `calls` holds what it was called with. */
function giving(...answers) {
  const calls = [];
  const give = async (about) => {
    calls.push(about);
    const answer = answers[Math.min(calls.length, answers.length) - 1];
    if (answer instanceof Error) throw answer;
    return answer;
  };
  return Object.assign(give, { calls });
}

const response = (status, text) => ({ ok: status < 300, status, text: async () => text });
const sentToken = (page) => page.socket.sent("connect")[0].token;

async function opened(page) {
  await settled();
  page.socket?.open();
  await settled();
}

test("a token is replaced ten seconds before it expires, on the same connection, again and again", async () => {
  const token = giving(jwt("a"), jwt("b"), jwt("c"));
  const page = new Page({ token });
  await page.connect({ ttl: 60 });
  await page.advance(49_999);
  assert.equal(token.calls.length, 1);
  await page.advance(1);
  assert.deepEqual(page.socket.sent("refresh"), [{ id: 2, token: jwt("b") }]);
  page.socket.reply("refresh", { ttl: 60 });
  await page.advance(50_000);
  assert.equal(page.socket.sent("refresh")[1].token, jwt("c"));
  assert.equal(page.sockets.length, 1);
});

test("a short token is replaced at half of its time", async () => {
  const page = new Page({ token: giving(jwt("a"), jwt("b")) });
  await page.connect({ ttl: 4 });
  await page.advance(2000);
  assert.equal(page.socket.sent("refresh")[0].token, jwt("b"));
});

test("a renewal that fails is tried again while the connection holds", async () => {
  const token = giving(jwt("a"), new Error("no net"), jwt("b"));
  const page = new Page({ token });
  await page.connect({ ttl: 60 });
  await page.advance(50_000);
  assert.deepEqual(page.socket.sent("refresh"), []);
  await page.advance(5000);
  assert.equal(page.socket.sent("refresh")[0].token, jwt("b"));
  assert.equal(page.gateway.state, "connected");
});

test("a renewal whose connection is lost meanwhile leaves the next connection alone", async () => {
  let late;
  const token = giving(jwt("a"), new Promise((resolve) => (late = resolve)), jwt("c"));
  const page = new Page({ token });
  await page.connect({ ttl: 60 });
  await page.advance(50_000);
  page.socket.end();
  await page.advance(500);
  await page.connect({ ttl: 60 });
  late(jwt("b"));
  await settled();
  assert.equal(sentToken(page), jwt("c"));
  assert.deepEqual(page.sockets.flatMap((socket) => socket.sent("refresh")), []);
});

test("a token that is a string is not renewed", async () => {
  const page = new Page({ token: jwt("a") });
  await page.connect({ ttl: 60 });
  await page.advance(100_000);
  assert.deepEqual(page.socket.sent("refresh"), []);
});

for (const [what, bad] of [
  ["a function that throws", new Error("no net")],
  ["a login page in place of a token", "<!doctype html><title>Log in</title>"],
  ["a text with the status 404", response(404, jwt("a"))],
  ["a Response whose text is a login page", response(200, "<!doctype html>")],
  ["JSON in place of a token", { token: jwt("a") }],
]) {
  test(`${what} is a failure of the token function, which is called again after a backoff`, async () => {
    const page = new Page({ token: giving(bad, bad, jwt("a")) });
    await settled();
    const { state, code, reason, retryMs } = page.states.at(-1);
    assert.deepEqual([state, code, retryMs, page.sockets.length], ["waiting", "token", 500, 0]);
    assert.match(reason, /^the token function failed: /);
    assert.doesNotMatch(reason, /doctype|head\./, "what it returned is not shown");
    await page.advance(500);
    assert.equal(page.states.at(-1).retryMs, 1000);
    await page.advance(1000);
    await page.connect();
    assert.equal(page.gateway.state, "connected");
  });
}

test("a newline after the token does no harm", async () => {
  for (const token of [`${jwt("a")}\n`, giving(`${jwt("a")}\r\n`), giving(response(200, ` ${jwt("a")}\n`))]) {
    const page = new Page({ token });
    await page.connect();
    assert.equal(sentToken(page), jwt("a"));
  }
});

test("a function that returns nothing leaves the client anonymous, until it has returned a token once", async () => {
  const page = new Page({ token: giving(null, jwt("a"), "") });
  await page.connect();
  assert.equal(sentToken(page), undefined);
  for (const round of [1, 2]) {
    page.socket.end(3005, "connection expired");
    await page.advance(500 * round);
    if (round === 1) await page.connect();
  }
  assert.deepEqual([page.states.at(-1).code, page.sockets.length], ["token", 2]);
  assert.match(page.states.at(-1).reason, /returns none any more/);
});

test("a function that does not return is called again after thirty seconds", async () => {
  const token = giving(new Promise(() => {}), jwt("a"));
  const page = new Page({ token });
  await page.advance(30_500);
  await page.connect();
  assert.equal(sentToken(page), jwt("a"));
});

test("an expired token makes the function be called again, and a string is refused", async () => {
  const expired = { code: 109, message: "token expired" };
  const page = new Page({ token: giving(jwt("old"), jwt("new")) });
  await opened(page);
  page.socket.refuse("connect", expired);
  await page.advance(500);
  await page.connect();
  assert.equal(sentToken(page), jwt("new"));

  const other = new Page({ token: jwt("old") });
  await opened(other);
  other.socket.refuse("connect", expired);
  assert.deepEqual(other.states.at(-1), { state: "refused", code: 109, reason: "token expired" });
});

test("a refused token that came from a function is replaced three times, with backoff, before the refusal is final", async () => {
  const token = giving(jwt("a"));
  const page = new Page({ token });
  const waits = [];
  for (let attempt = 0; attempt < 4; attempt++) {
    await opened(page);
    page.socket.end(3500, "invalid token");
    waits.push(page.states.at(-1).retryMs);
    await page.advance(waits.at(-1) ?? 100_000);
  }
  assert.deepEqual(waits, [500, 1000, 2000, undefined]);
  assert.deepEqual(page.states.at(-1), { state: "refused", code: 3500, reason: "invalid token" });
  assert.equal(token.calls.length, 4);
});

test("a good token after a refused one connects, and what is refused much later is replaced as often again", async () => {
  const page = new Page({ token: giving(jwt("forged"), jwt("good")) });
  for (let round = 0; round < 6; round++) {
    await opened(page);
    page.socket.end(3500, "invalid token");
    await page.advance(1000);
    await page.connect();
    assert.equal(page.gateway.state, "connected");
    await page.advance(6000);
    page.socket.end(1006);
    await page.advance(500);
  }
});

test("a refused token that is a string is final at once", async () => {
  const page = new Page({ token: jwt("forged") });
  await opened(page);
  page.socket.end(3500, "invalid token");
  assert.equal(page.gateway.state, "refused");
});

test("no token where the gateway wants one is asked for again too", async () => {
  const page = new Page({ token: giving("", jwt("a")) });
  await opened(page);
  page.socket.end(3501, "bad request");
  await page.advance(500);
  await page.connect();
  assert.equal(sentToken(page), jwt("a"));
});

test("after a refusal connect() asks the function for another token", async () => {
  const page = new Page({ token: giving(jwt("a"), jwt("b")) });
  await opened(page);
  page.socket.end(3503, "force disconnect");
  page.gateway.connect();
  await page.connect();
  assert.equal(sentToken(page), jwt("b"));
});

test("a token of another type is refused where it is given", () => {
  for (const token of [17, {}, Promise.resolve(jwt("a"))]) assert.throws(() => new Page({ token }), TypeError);
});

test("a subscription's function is called with its channel, and its failure leaves the other channels alone", async () => {
  const page = new Page();
  const token = giving(new Error("no net"), new Error("no net"), jwt("ticket"));
  const [beside, ticket] = [page.gateway.subscribe("beside"), page.gateway.subscribe("ticket:1", { token })];
  await page.connect();
  assert.deepEqual([beside.state, ticket.state], ["live", "waiting"]);
  assert.deepEqual(token.calls[0], { channel: "ticket:1" });
  await page.advance(500);
  assert.deepEqual(page.socket.sent("subscribe")[1], { id: 3, channel: "ticket:1", token: jwt("ticket") });
  page.socket.reply("subscribe", { ttl: 60 });
  assert.equal(ticket.state, "live");
  await page.advance(50_000);
  assert.deepEqual(page.socket.sent("sub_refresh"), [{ id: 4, channel: "ticket:1", token: jwt("ticket") }]);
});

test("a channel whose token takes long is followed when it is there, and no other channel waits for it", async () => {
  const page = new Page({ token: jwt("ann") });
  let give;
  const token = giving(new Promise((resolve) => (give = resolve)));
  const [beside, ticket] = [page.gateway.subscribe("beside"), page.gateway.subscribe("ticket:1", { token })];
  await page.advance(1000);
  await page.connect();
  assert.deepEqual([beside.state, ticket.state], ["live", "waiting"]);
  await page.advance(5000);
  give(jwt("ticket"));
  await settled();
  assert.deepEqual(page.socket.sent("subscribe")[1], { id: 3, channel: "ticket:1", token: jwt("ticket") });
  assert.equal(token.calls.length, 1);
});

test("a channel's token that always takes long is there in the end over event streams too", async () => {
  const page = new Page();
  const token = () => new Promise((resolve) => page.clock.setTimeout(() => resolve(jwt("ticket")), 1500));
  page.gateway.subscribe("ticket:1", { token });
  for (let attempt = 0; attempt < 2; attempt++) {
    await page.advance(1000);
    page.socket.end();
    await page.advance(1000);
  }
  await page.advance(5000);
  assert.equal(page.stream.url.searchParams.get("subscription_token"), jwt("ticket"));
});

test("a subscription token that expired or was revoked is replaced, and the subscription continues at its position", async () => {
  const page = new Page();
  const token = giving(jwt("a"), jwt("b"), jwt("c"));
  page.gateway.subscribe("ticket:1", { token });
  await opened(page);
  page.socket.reply("connect", {});
  page.socket.refuse("subscribe", { code: 109, message: "token expired" });
  await page.advance(500);
  page.socket.reply("subscribe", { recoverable: true, epoch: "e", offset: 1 });
  page.socket.publish("ticket:1", "x", 2);
  page.socket.push("ticket:1", { unsubscribe: { code: 2501, reason: "subscription expired" } });
  await page.advance(500);
  assert.deepEqual(page.socket.sent("subscribe").at(-1), {
    id: 4,
    channel: "ticket:1",
    recover: true,
    epoch: "e",
    offset: 2,
    token: jwt("c"),
  });
});

test("a subscription token that closes the connection is replaced although the connection's own is a string", async () => {
  const page = new Page({ token: jwt("ann") });
  const token = giving(jwt("of another user"), jwt("mine"));
  page.gateway.subscribe("ticket:1", { token });
  await opened(page);
  page.socket.end(3500, "invalid token");
  await page.advance(500);
  await page.connect();
  assert.equal(page.socket.sent("subscribe")[0].token, jwt("mine"));
});
