// Which member this tab is. It is stored for the tab alone, so that two tabs can be two members.

import { members } from "./api.js";
import { $, attempt, avatar, dress, h } from "./dom.js";

const KEY = "piazza member";
const SHOWN_MOST = 24; // of the known members; others are typed

export const remembered = () => sessionStorage.getItem(KEY);

/** Shows the chooser. `enter` is called with a name, and may fail with a sentence. */
export async function choose(enter) {
  $("welcome").hidden = false;
  let entering = false; // a double click is one member, not two in one tab
  const be = async (name) => {
    if (entering) return;
    entering = true;
    await attempt($("enter-fault"), () => enter(name));
    entering = false;
  };
  $("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("name").value.trim();
    if (name) be(name);
    else $("name").focus();
  });
  await attempt($("enter-fault"), async () => {
    for (const name of (await members()).slice(0, SHOWN_MOST)) $("members").append(person(name, be));
  });
}

function person(name, be) {
  const attributes = { type: "button", class: "person", "data-testid": "member", "data-name": name };
  return h("button", { ...attributes, on: { click: () => be(name) } }, avatar(name), h("span", {}, name));
}

/** Another member is a reload of the page, so that nothing of one member remains for the next. */
export function become(name) {
  sessionStorage.setItem(KEY, name);
  $("me-name").textContent = name;
  dress($("me-avatar"), name);
  $("me").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
}
