/**
 * Hooks for React 18 and later. React is the page's: this file loads none, and has no JSX.
 *
 *     import * as React from "react";
 *     import { Gateway } from "./gateway.js";
 *     import { hooks } from "./react.js";
 *
 *     const gateway = new Gateway({ token: () => fetch("/my-token") });
 *     export const { useChannel, useInbox, usePresence } = hooks(React, gateway);
 *
 *     function Posts() {
 *       const { publications, state } = useChannel("posts:tech", { history: 20 });
 *       return <ul aria-busy={state !== "live"}>{publications.map(({ key, data }) => <li key={key}>{data.text}</li>)}</ul>;
 *     }
 *
 * hooks(React, gateway) → { GatewayProvider, useGateway, useChannel, useInbox, usePresence }
 *   gateway       what the hooks use where no <GatewayProvider gateway={…}> surrounds the component. It may be left out
 *   useGateway()  → the Gateway
 *   useChannel(channel, { history, limit, since, token, joinLeave, onPublication })
 *                 → { publications, state, code, reason, more, gaps, error, older, publish }
 *   useInbox({ user, size, listing, onNotification })
 *                 → { unread, notifications, more, error, older, read }
 *   usePresence(channel, { token })  → { clients, users, state, code, reason, error }
 *
 * The values are the snapshots of stores.js, where each is described. A channel that is null or "" is not followed. Several
 * components may use one channel: they share one subscription. A component that uses useChannel and usePresence of one channel
 * gives useChannel { joinLeave: true }. On a server nothing is followed, and the values are those before anything is known.
 */

import { ChannelStore, InboxStore, PresenceStore } from "./stores.js";

const IDLE = { subscribe: () => () => {}, publish: () => Promise.reject(new TypeError("there is no channel")), older: async () => {} };

/** A store of nothing, which has the first snapshot of its kind. */
const idle = ({ snapshot }) => ({ ...IDLE, getSnapshot: () => snapshot });

export function hooks(React, gateway = null) {
  const Context = React.createContext(gateway);

  function GatewayProvider({ gateway, children }) {
    return React.createElement(Context.Provider, { value: gateway }, children);
  }

  function useGateway() {
    const found = React.useContext(Context);
    if (!found) throw new Error("there is no gateway: pass one to hooks(React, gateway), or use <GatewayProvider gateway={gateway}>");
    return found;
  }

  /** The store that `make` makes, another one whenever the gateway or one of `keys` changed, and its snapshot. */
  function useStore(make, keys, arrived) {
    const gateway = useGateway();
    const store = React.useMemo(() => make(gateway), [gateway, ...keys]);
    React.useEffect(() => {
      store.arrived = arrived ?? (() => {});
    });
    return [store, React.useSyncExternalStore(store.subscribe, store.getSnapshot, store.getSnapshot)];
  }

  function useChannel(channel, options = {}) {
    const { history, limit, since, joinLeave, onPublication } = options;
    const make = (gateway) => {
      const store = new ChannelStore(gateway, channel, options);
      return channel ? store : idle(store);
    };
    const [{ older, publish }, snapshot] = useStore(make, [channel, history, limit, since?.epoch, since?.offset, joinLeave], onPublication);
    return { ...snapshot, older, publish };
  }

  function useInbox({ user, size, listing = true, onNotification } = {}) {
    const make = (gateway) => new InboxStore(gateway, { user, size, listing: false });
    const [store, snapshot] = useStore(make, [user, size], onNotification);
    React.useEffect(() => store.show(listing), [store, listing]);
    return { ...snapshot, older: store.older, read: store.read };
  }

  function usePresence(channel, { token } = {}) {
    const make = (gateway) => {
      const store = new PresenceStore(gateway, channel, { token });
      return channel ? store : idle(store);
    };
    return useStore(make, [channel])[1];
  }

  return { GatewayProvider, useGateway, useChannel, useInbox, usePresence };
}
