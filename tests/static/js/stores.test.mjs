// The stores: how much they hold, however much is published and however many come and go.

import assert from "node:assert/strict";
import test from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { ChannelStore, PresenceStore } from "../../../static/stores.js";
import { settled } from "./kit.mjs";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc");

/** A gateway with one subscription, whose events the test makes with emit(). */
function gatewayOf(answers = {}) {
  const handlers = {};
  const on = (event, handler) => {
    handlers[event] = handler;
    return () => delete handlers[event];
  };
  const subscription = { state: "live", on, unsubscribe: () => {}, ...answers };
  return { subscribe: () => subscription, emit: (event, detail) => handlers[event]?.(detail) };
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
