// The bell: the page's <gateway-inbox>, with what only the town knows: where a notification leads, and what is shown as a toast.

import "../static/elements.js";
import { $ } from "./dom.js";
import { toast } from "./toast.js";

/** `go` shows a target, such as post:17, or fails with a sentence; `toasted` returns whether this page shows a toast for a notification. */
export function ring(line, go, toasted = () => true) {
  const bell = $("bell");
  const follow = async ({ id, target }) => {
    try {
      await Promise.all([line.gateway.inbox.read({ ids: [id] }), go(target)]);
      bell.hide();
    } catch (error) {
      bell.show(error.message);
    }
  };
  bell.setAttribute("user", line.user);
  bell.gateway = line.gateway;
  bell.addEventListener("unread", ({ detail: { unread } }) => {
    document.title = `${unread ? `(${unread}) ` : ""}${document.title.replace(/^\(\d+\) /, "")}`;
  });
  // Notifications that were missed get no toast each: the line announces them together.
  bell.addEventListener("notification", ({ detail: { data, recovered } }) => {
    if (!recovered && !bell.open && toasted(data)) toast(data.id, data.text, () => follow(data));
  });
  bell.addEventListener("choose", (event) => {
    event.preventDefault(); // the panel closes when the target is shown
    follow(event.detail.data);
  });
}
