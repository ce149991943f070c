/**
 * <gateway-inbox> and <gateway-feed>: the user's notifications and a channel's publications, ready to be put on a page.
 *
 *     <script type="module" src="https://gateway.example/static/elements.js"></script>
 *     <gateway-inbox token-url="/my-token"></gateway-inbox>
 *     <gateway-feed channel="posts:tech" history="20" token-url="/my-token"></gateway-feed>
 *
 * Nothing is built and nothing else is loaded; no style or script is inline, so the strictest content security policy lets them
 * work, and no text is ever taken for markup. They follow the page's `color-scheme`, light or dark.
 *
 * Attributes of both
 *   token-url     where the page's own server answers with the user's token, as text
 *   url           of the gateway; by default, where this module came from. Without token-url, the client is anonymous.
 *                 Elements with the same url and token-url share one connection
 *   label         the name that is shown on <gateway-inbox>, and which a screen reader has for both
 * Properties of both
 *   gateway       a Gateway, in place of url and token-url. An element without any of the three waits for one
 *   texts         { … }: other words, as for another language; the defaults are INBOX_TEXTS and FEED_TEXTS
 *   draw          a function that returns what is shown of one notification or publication: a node or a text
 * A <template> in the element is cloned for each notification or publication, and styled by the page. In it
 *   data-field="data.user"       sets the text; an element whose field is missing is hidden. In a <time>, the field is a time in
 *                                milliseconds or as text, and is shown as "5 min ago" in the page's language
 *   data-href="data.url"         sets the href; only http, https and mailto are
 *
 * <gateway-inbox>
 *   user          the user's id: with it, the inbox arrives also where only event streams get through
 *   size          20: notifications of a page
 *   inline        the list is a part of the page; there is no bell
 *   unread        (a property) their number; null until it is known
 *   open          (a property) whether its list is shown
 *   show(fault), hide()    open and close the panel; `fault` is a sentence that is shown in it
 *   Slots: "bell" (the symbol on the button), "title", "empty".
 *   Events: "unread" ({ unread }), "notification" (one that arrived, as gateway.js emits it), "choose" (a notification that the
 *   user chose; it is marked as read, the panel closes, and data.url is opened unless the page calls preventDefault()).
 * A notification is shown as its data.title and data.text, and links to its data.url.
 *
 * <gateway-feed>
 *   channel
 *   history       0: the number of older publications that are read from history at first
 *   limit         100: publications that are shown; the oldest are dropped first
 *   order         "newest-first" or "oldest-first", which scrolls along while the end is in view
 *   quiet         a screen reader does not announce what arrives
 *   publish(data) → promise
 *   Slots: "heading", "empty".
 *   Events: "publication", as gateway.js emits it and with a key that no other has, and "gap" ({ channel }).
 * A publication is shown as its data.text, after its data.user if there is one; other data as JSON.
 *
 * Colours and sizes are CSS variables, for the page to set on the element or above it: --gateway-ink, --gateway-soft (lesser text),
 * --gateway-card (the ground), --gateway-line, --gateway-accent, --gateway-wash (the ground of what is unread or was caught up),
 * --gateway-badge, --gateway-badge-ink, --gateway-fault, --gateway-radius, --gateway-width (of the panel), --gateway-height (its
 * most), --gateway-shadow. The text has the page's font. Parts for ::part(): bell, count, panel, head, title, list, item, unread,
 * recovered, open, text, time, badge, read, read-all, close, older, empty, state, fault.
 */

import { GatewayFeed } from "./elements/feed.js";
import { GatewayInbox } from "./elements/inbox.js";

export { FEED_TEXTS } from "./elements/feed.js";
export { INBOX_TEXTS } from "./elements/inbox.js";
export { GatewayFeed, GatewayInbox };

// Where a server renders the page, there are no elements to define.
for (const [name, element] of Object.entries({ "gateway-inbox": GatewayInbox, "gateway-feed": GatewayFeed })) {
  if (globalThis.customElements && !customElements.get(name)) customElements.define(name, element);
}
