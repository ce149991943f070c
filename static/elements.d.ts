/** Types of elements.js, whose first comment describes the attributes, properties, slots, events and variables. */

import type { Gateway, Notification, PublicationEvent } from "./gateway.js";
import type { ShownPublication } from "./stores.js";

export interface InboxTexts {
  title: string;
  unread: (count: number) => string;
  isUnread: string;
  arrived: (count: number) => string;
  readAll: string;
  read: string;
  close: string;
  older: string;
  empty: string;
}

export interface FeedTexts {
  waiting: string;
  catchingUp: string;
  refused: (reason: string) => string;
  gap: string;
  recovered: string;
  arrived: (count: number) => string;
  older: string;
  empty: string;
}

export const INBOX_TEXTS: InboxTexts;
export const FEED_TEXTS: FeedTexts;

/** The events of a <gateway-inbox>. */
export interface GatewayInboxEvents extends HTMLElementEventMap {
  unread: CustomEvent<{ unread: number | null }>;
  notification: CustomEvent<PublicationEvent>;
  choose: CustomEvent<Notification>;
}

/** The events of a <gateway-feed>. */
export interface GatewayFeedEvents extends HTMLElementEventMap {
  publication: CustomEvent<ShownPublication>;
  gap: CustomEvent<{ channel: string }>;
}

declare class GatewayElement<Texts, Shown, Events> extends HTMLElement {
  get gateway(): Gateway | null;
  set gateway(gateway: Gateway | null);
  get texts(): Texts;
  set texts(texts: Partial<Texts>);
  draw: ((shown: Shown) => Node | string) | null;
  addEventListener<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => any, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => any, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}

export class GatewayInbox extends GatewayElement<InboxTexts, Notification, GatewayInboxEvents> {
  readonly unread: number | null;
  readonly open: boolean;
  show(fault?: string): void;
  hide(): void;
}

export class GatewayFeed extends GatewayElement<FeedTexts, ShownPublication, GatewayFeedEvents> {
  publish(data: unknown): Promise<void>;
}

declare global {
  interface HTMLElementTagNameMap {
    "gateway-inbox": GatewayInbox;
    "gateway-feed": GatewayFeed;
  }
}
