// Prints what gateway.js offers, as JSON: for each type that gateway.d.ts declares, the names that the module really has or reads.

import { Gateway, GatewayError } from "../../../static/gateway.js";
import * as module from "../../../static/gateway.js";
import { Page, settled } from "./kit.mjs";

/** The options that a call reads. */
function read(call) {
  const names = new Set();
  call(new Proxy({}, { get: (_, name) => void names.add(name) }));
  return [...names];
}

/** The public members of an instance, inherited ones included. */
function members(instance) {
  const names = new Set(Object.keys(instance));
  for (let at = Object.getPrototypeOf(instance); at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const name of Object.getOwnPropertyNames(at)) names.add(name);
  }
  return [...names].filter((name) => name !== "constructor" && !name.startsWith("_"));
}

/** The events, as the error about one that does not exist lists them. */
function events(emitter) {
  try {
    emitter.on("none", () => {});
  } catch ({ message }) {
    return message.split("there are ")[1].split(", ");
  }
}

const page = new Page();
const { gateway } = page;
const room = gateway.subscribe("room", { joinLeave: true });
const details = {}; // type → keys of all events of that type
const note = (type) => (detail) => (details[type] = [...new Set([...(details[type] ?? []), ...Object.keys(detail)])]);
room.on("publication", note("PublicationEvent")).on("gap", note("GapEvent")).on("join", note("JoinLeaveEvent"));
room.on("state", note("SubscriptionStateEvent"));
gateway.on("state", note("GatewayStateEvent")).on("unread", note("UnreadEvent"));
await page.connect({ subs: { "notifications:ann": {} } });
page.socket.publish("room", 1, 8);
page.socket.push("room", { gap: { epoch: "e", offset: 9 } });
page.socket.push("room", { join: { info: {} } });
page.socket.publish("notifications:ann", { inbox: { unread: 1, change: 1, epoch: "i" } });
page.socket.end();
await settled();

console.log(
  JSON.stringify({
    "typeof declared": Object.keys(module),
    Platform: Object.keys(gateway._platform),
    GatewayOptions: read((options) => new Gateway(options).close()),
    SubscribeOptions: read((options) => gateway.subscribe("other", options)),
    HistoryOptions: read((options) => gateway.history("room", options).catch(() => {})),
    Gateway: members(gateway),
    Subscription: members(room),
    Inbox: members(gateway.inbox),
    GatewayEvents: events(gateway),
    SubscriptionEvents: events(room),
    "Omit<declared.GatewayError, keyof Error>": Object.keys(new GatewayError("lost", "")).filter((name) => name !== "name"),
    ...details,
  }),
);
gateway.close();
