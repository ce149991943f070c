/** Types of gateway.js, whose first comment describes what each option, method and event does. */

export interface Position {
  epoch: string;
  offset: number;
}

/** A client, as others see it. `conn_info` and `chan_info` are what its tokens say about it. */
export interface ClientInfo {
  user: string;
  client: string;
  conn_info?: unknown;
  chan_info?: unknown;
}

// Options.

/** What a token function may return: a JWT, the Response of a fetch whose text is one, or nothing for an anonymous client. */
export type TokenAnswer = string | Response | null | undefined;

/** A JWT, or a function that returns one and is called again whenever another one is needed. */
export type TokenSource<About extends unknown[] = []> = string | ((...about: About) => TokenAnswer | Promise<TokenAnswer>) | null;

export interface GatewayOptions {
  url?: string | URL;
  token?: TokenSource;
  debug?: boolean;
  timeoutMs?: number;
  backoffMs?: number;
  longestBackoffMs?: number;
  silenceMs?: number;
  platform?: Partial<Platform>;
}

export interface SubscribeOptions {
  since?: Position | null;
  token?: TokenSource<[{ channel: string }]>;
  joinLeave?: boolean;
}

export interface HistoryOptions {
  limit?: number;
  since?: Position | null;
  reverse?: boolean;
}

/** What gateway.js uses of its surroundings; what is left out is the global of that name. */
export interface Platform {
  WebSocket: new (url: URL) => SocketLike;
  EventSource: new (url: URL) => StreamLike;
  fetch(url: URL, options?: RequestInit): Promise<Response>;
  setTimeout(act: () => void, delayMs?: number): any;
  clearTimeout(timer: any): void;
  /** Milliseconds, as of Date.now. */
  now(): number;
  /** At least 0 and less than 1, as of Math.random. */
  random(): number;
  console: Pick<Console, "warn" | "error">;
}

export interface SocketLike {
  onopen: any;
  onmessage: any;
  onerror?: any;
  onclose: any;
  send(text: string): void;
  close(): void;
}

export interface StreamLike {
  onerror: any;
  /** 2 where it will not try again. */
  readonly readyState?: number;
  addEventListener(event: string, listener: (message: any) => void): void;
  close(): void;
}

// Events.

export interface PublicationEvent<Data = any> {
  channel: string;
  data: Data;
  /** Absent for an ephemeral publication. */
  offset?: number;
  tags?: Record<string, string>;
  /** Present if a client published it. */
  info?: ClientInfo;
  recovered: boolean;
}

export interface GapEvent extends Position {
  channel: string;
}

export interface JoinLeaveEvent {
  channel: string;
  info: ClientInfo;
}

export interface UnreadEvent {
  unread: number;
  read?: string[];
  upto?: number;
}

export type ErrorCode = number | "timeout" | "lost" | "closed" | "sse" | "token" | "options" | "platform";
export type Transport = "websocket" | "sse";
export type GatewayState = "connecting" | "connected" | "waiting" | "refused" | "closed";
export type SubscriptionState = "waiting" | "catching up" | "live" | "refused" | "closed";

export interface GatewayStateEvent {
  state: GatewayState;
  transport?: Transport;
  code?: ErrorCode;
  reason?: string;
  /** Of "waiting". */
  retryMs?: number;
}

export interface SubscriptionStateEvent {
  channel: string;
  state: SubscriptionState;
  code?: ErrorCode;
  reason?: string;
}

export interface SubscriptionEvents<Data = any> {
  publication: PublicationEvent<Data>;
  gap: GapEvent;
  join: JoinLeaveEvent;
  leave: JoinLeaveEvent;
  state: SubscriptionStateEvent;
}

export interface GatewayEvents {
  publication: PublicationEvent;
  gap: GapEvent;
  join: JoinLeaveEvent;
  leave: JoinLeaveEvent;
  state: GatewayStateEvent;
  unread: UnreadEvent;
}

/** Removes the listeners that were added with it when it is called; its on() adds one more. */
export interface Listening<Events> {
  (): void;
  on<Event extends keyof Events>(event: Event, handler: (detail: Events[Event]) => void): Listening<Events>;
}

export interface Emitter<Events> {
  on<Event extends keyof Events>(event: Event, handler: (detail: Events[Event]) => void): Listening<Events>;
  off<Event extends keyof Events>(event: Event, handler: (detail: Events[Event]) => void): this;
}

// Results.

export interface HistoryResult<Data = any> extends Position {
  publications: { data: Data; offset: number; tags?: Record<string, string>; info?: ClientInfo }[];
}

export interface Notification<Data = any> {
  id: string;
  offset: number;
  /** When it was published, in milliseconds since 1970. */
  ms: number;
  unread: boolean;
  data: Data;
}

export interface InboxPage<Data = any> {
  notifications: Notification<Data>[];
  unread: number;
  /** The `before` of the following page; null after the last. */
  next: string | null;
}

/** What to mark as read: ids, all up to a position of the form "EPOCH:OFFSET", or both; or all. */
export type InboxMarks = { ids: string[]; upto?: string } | { ids?: string[]; upto: string } | { all: true };

// Classes.

/** One channel that the page follows; Gateway.subscribe returns it. */
export interface Subscription<Data = any> extends Emitter<SubscriptionEvents<Data>> {
  readonly channel: string;
  readonly state: SubscriptionState;
  readonly position: Position | null;
  publish(data: Data): Promise<void>;
  history(options?: HistoryOptions): Promise<HistoryResult<Data>>;
  presence(): Promise<ClientInfo[]>;
  presenceStats(): Promise<{ clients: number; users: number }>;
  unsubscribe(): void;
}

export interface Inbox {
  readonly unread: number | null;
  list<Data = any>(options?: { limit?: number; before?: string | null }): Promise<InboxPage<Data>>;
  read(marks: InboxMarks): Promise<void>;
}

export interface Gateway extends Emitter<GatewayEvents> {}

export class Gateway {
  constructor(options?: GatewayOptions);
  readonly state: GatewayState;
  readonly transport: Transport | undefined;
  readonly client: string | null;
  readonly inbox: Inbox;
  subscribe<Data = any>(channel: string, options?: SubscribeOptions): Subscription<Data>;
  unsubscribe(channel: string): void;
  publish(channel: string, data: unknown): Promise<void>;
  history<Data = any>(channel: string, options?: HistoryOptions): Promise<HistoryResult<Data>>;
  rpc<Result = any>(method: string, data?: unknown): Promise<Result>;
  connect(): void;
  disconnect(): void;
  close(): void;
}

export class GatewayError extends Error {
  constructor(code: ErrorCode, message: string, temporary?: boolean, hint?: string);
  code: ErrorCode;
  temporary: boolean;
  /** A sentence for developers, where the gateway sends one. */
  hint?: string;
}
