/**
 * What a page shows of a channel, of the user's inbox and of those who are present, as values that change: the custom elements
 * (elements.js) and the hooks for React (react.js) draw these, and any other framework may.
 *
 *     import { ChannelStore } from "/static/stores.js";
 *     const posts = new ChannelStore(gateway, "posts:tech", { history: 20 });
 *     const stop = posts.subscribe(() => draw(posts.snapshot));
 *
 * A store follows its channel from the first subscribe() until the last function that subscribe() returned was called. `snapshot`
 * is a new object whenever something changed, and is never changed itself. `arrived`, where the page sets it, is called with each
 * publication or notification that arrives while the store follows.
 *
 * new ChannelStore(gateway, channel, { history, limit, since, token, joinLeave })
 *   history    0: the number of older publications that are read from the channel's history at first, and again after a gap; of a channel
 *              that does not recover, also when the connection is back
 *   limit      100: how many publications the snapshot holds; the oldest are dropped first
 *   since, token, joinLeave    as of gateway.subscribe()
 *   snapshot   { publications, state, code, reason, more, gaps, error }
 *              publications are those of gateway.js, oldest first, each with a `key` that no other has; `recovered` is true only for
 *              one that arrived late; state, code and reason are the subscription's; more: older() would find further ones; gaps: how
 *              often history no longer held what was missed; error: of the last read of history, null if it succeeded
 *   older()    → promise; adds a page of older publications from history
 *   publish(data)  → promise
 *
 * new InboxStore(gateway, { user, size, listing })
 *   user       the user's id: with it, the inbox arrives also where only event streams get through
 *   size       20: notifications of a page
 *   listing    true: the list is read and kept up to date; false: only the number of unread notifications is, as for a closed panel
 *   snapshot   { unread, notifications, more, error }: unread is null and notifications is null until they are known
 *   show(listing)      begins or ends keeping the list up to date
 *   older()    → promise; adds a page
 *   read(marks)        → promise; as gateway.inbox.read()
 *
 * new PresenceStore(gateway, channel, { token })     needs a channel whose rules allow presence and join and leave to be seen
 *   snapshot   { clients, users, state, error }: clients as of presence(), users are their ids, each once, in the order of arrival
 */

export { ChannelStore } from "./stores/channel.js";
export { InboxStore } from "./stores/inbox.js";
export { PresenceStore } from "./stores/presence.js";
