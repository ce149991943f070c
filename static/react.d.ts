/** Types of react.js, whose first comment describes the hooks. They need no types of React: what they use of it is named here. */

import type { Gateway, PublicationEvent, SubscribeOptions } from "./gateway.js";
import type { ChannelOptions, ChannelSnapshot, ChannelStore, InboxOptions, InboxSnapshot, InboxStore, PresenceSnapshot, ShownPublication } from "./stores.js";

/** What the hooks use of React, 18 or later. */
export interface ReactLike {
  createContext(value: any): { Provider: any };
  createElement(type: any, properties: any, ...children: any[]): any;
  useContext(context: any): any;
  useEffect(effect: () => void | (() => void), dependencies?: readonly unknown[]): void;
  useMemo<Value>(make: () => Value, dependencies: readonly unknown[]): Value;
  useSyncExternalStore<Snapshot>(
    subscribe: (listener: () => void) => () => void,
    getSnapshot: () => Snapshot,
    getServerSnapshot?: () => Snapshot,
  ): Snapshot;
}

export interface UseChannelOptions<Data = any> extends ChannelOptions {
  onPublication?: (publication: ShownPublication<Data>) => void;
}

export interface UseInboxOptions<Data = any> extends InboxOptions {
  onNotification?: (notification: PublicationEvent<Data>) => void;
}

export interface UsedChannel<Data = any> extends ChannelSnapshot<Data>, Pick<ChannelStore<Data>, "older" | "publish"> {}
export interface UsedInbox<Data = any> extends InboxSnapshot<Data>, Pick<InboxStore<Data>, "older" | "read"> {}

export interface GatewayHooks {
  GatewayProvider(properties: { gateway: Gateway; children?: any }): any;
  useGateway(): Gateway;
  useChannel<Data = any>(channel: string | null | undefined, options?: UseChannelOptions<Data>): UsedChannel<Data>;
  useInbox<Data = any>(options?: UseInboxOptions<Data>): UsedInbox<Data>;
  usePresence(channel: string | null | undefined, options?: Pick<SubscribeOptions, "token">): PresenceSnapshot;
}

export function hooks(React: ReactLike, gateway?: Gateway | null): GatewayHooks;
