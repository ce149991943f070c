// Which view the first part of an address names.

import { Channel } from "./channel.js";
import { Channels } from "./channels.js";
import { Connection } from "./connection.js";
import { Connections } from "./connections.js";
import { Inboxes } from "./inboxes.js";
import { Job } from "./job.js";
import { Log } from "./log.js";
import { Nodes } from "./nodes.js";
import { Outbox } from "./outbox.js";
import { Overview } from "./overview.js";
import { Permissions } from "./permissions.js";
import { Queue } from "./queue.js";
import { Queues } from "./queues.js";
import { Why } from "./why.js";

const VIEWS = {
  "": [Overview],
  nodes: [Nodes],
  connections: [Connections, Connection],
  channels: [Channels, Channel],
  inboxes: [Inboxes],
  permissions: [Permissions],
  queues: [Queues, Queue, Job],
  outbox: [Outbox],
  log: [Log],
  why: [Why],
};

/** The class that shows a place, and the name of its entry in the navigation. What is unknown is the overview. */
export function viewOf({ name, parts }) {
  if (!Object.hasOwn(VIEWS, name)) return { view: Overview, name: "" };
  const classes = VIEWS[name];
  return { view: classes[Math.min(parts.length, classes.length - 1)], name };
}
