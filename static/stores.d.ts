/** Types of stores.js, whose first comment describes what each option, value and method is. */

import type { ClientInfo, ErrorCode, Gateway, GatewayError, InboxMarks, Notification, PublicationEvent, SubscribeOptions, SubscriptionState } from "./gateway.js";

export interface Store<Snapshot> {
  readonly gateway: Gateway;
  readonly snapshot: Snapshot;
  getSnapshot(this: void): Snapshot;
  /** Calls `listener` after each change. Returns a function that removes it. */
  subscribe(this: void, listener: () => void): () => void;
}

/** A publication that is shown; no other has its key. */
export interface ShownPublication<Data = any> extends PublicationEvent<Data> {
  key: string;
}

export interface ChannelOptions extends SubscribeOptions {
  history?: number;
  limit?: number;
}

export interface ChannelSnapshot<Data = any> {
  publications: ShownPublication<Data>[];
  state: SubscriptionState;
  code: ErrorCode | undefined;
  reason: string | undefined;
  more: boolean;
  gaps: number;
  error: GatewayError | null;
}

export interface ChannelStore<Data = any> extends Store<ChannelSnapshot<Data>> {}

export class ChannelStore<Data = any> {
  constructor(gateway: Gateway, channel: string, options?: ChannelOptions);
  readonly channel: string;
  readonly history: number;
  arrived: (publication: ShownPublication<Data>) => void;
  older(this: void): Promise<void>;
  publish(this: void, data: Data): Promise<void>;
}

export interface InboxOptions {
  user?: string | null;
  size?: number;
  listing?: boolean;
}

export interface InboxSnapshot<Data = any> {
  unread: number | null;
  notifications: Notification<Data>[] | null;
  more: boolean;
  error: GatewayError | null;
}

export interface InboxStore<Data = any> extends Store<InboxSnapshot<Data>> {}

export class InboxStore<Data = any> {
  constructor(gateway: Gateway, options?: InboxOptions);
  arrived: (notification: PublicationEvent<Data>) => void;
  show(this: void, listing: boolean): void;
  older(this: void): Promise<void>;
  read(this: void, marks: InboxMarks): Promise<void>;
}

export interface PresenceSnapshot {
  clients: ClientInfo[];
  users: string[];
  state: SubscriptionState;
  code: ErrorCode | undefined;
  reason: string | undefined;
  error: GatewayError | null;
}

export interface PresenceStore extends Store<PresenceSnapshot> {}

export class PresenceStore {
  constructor(gateway: Gateway, channel: string, options?: Pick<SubscribeOptions, "token">);
}
