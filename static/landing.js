// The landing page: follows one channel, and shows the state of the connection and what was recovered. The protocol is in gateway.js.

import { Gateway } from "./gateway.js";

const CHANNEL = "hello:world";
const ROWS_MOST = 200;
const TOKEN_KEY = "gateway token";

const $ = (id) => document.getElementById(id);
const feed = $("feed");
let gateway;
let subscription;
let live = false;
let outage = null; // the divider in the feed, from the loss of the connection until it is live again
let caughtUp = 0;
let shown = { epoch: "", offset: 0 }; // up to where the feed shows the channel
let count = 0;
let countdown;

/** The token comes in the fragment, which no server sees. It is stored for this tab, and removed from the address bar. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    sessionStorage.setItem(TOKEN_KEY, token);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return storedToken();
}

function storedToken() {
  return sessionStorage.getItem(TOKEN_KEY) ?? "";
}

/** A new link that is opened in the same tab continues at the position of the old one. */
function start() {
  const token = takeToken();
  const since = subscription?.position;
  gateway?.close();
  gateway = new Gateway({ token });
  gateway.on("state", (event) => showLine(event, token));
  subscription = gateway.subscribe(CHANNEL, { since });
  subscription
    .on("state", showSubscription)
    .on("gap", showGap)
    .on("publication", showPublication);
}

// The state of the connection.

function showState(state, text) {
  clearInterval(countdown);
  $("countdown").textContent = "";
  $("state").dataset.state = state;
  $("state-text").textContent = text;
  $("cut").textContent = state === "cut" ? "Restore the line" : "Cut the line";
  $("cut").disabled = state === "refused";
  if (state === "live") $("fault").textContent = "";
}

function showLine({ state, transport, code, reason, retryMs }, token) {
  if (state === "connected") $("hint").hidden = true;
  if (state === "connected" && outage) showState("catching-up", "catching up");
  if (state === "connecting") showState("connecting", transport === "sse" ? "connecting over server-sent events" : "connecting");
  else if (state === "waiting") showWaiting(retryMs);
  else if (state === "closed") showCut();
  else if (state === "refused") showRefused(code, reason, token);
}

function showSubscription({ state, code, reason }) {
  if (state === "live") showState("live", gateway.transport === "sse" ? "live, receiving only" : "live");
  else if (state === "refused" && gateway.state === "connected") showRefused(code, reason, "a token");
  if (state === "waiting" && live) outage = addDivider("outage", "Line lost");
  if (state === "live") endOutage();
  live = state === "live";
}

function showCut() {
  showState("cut", "line cut");
  if (outage) outage.firstChild.textContent = "Line cut";
}

function endOutage() {
  if (outage) describe(outage, caughtUp ? `${caughtUp} caught up` : "nothing missed");
  outage = null;
  caughtUp = 0;
}

/** What a divider says after its first words, until it says something else. */
function describe(divider, words) {
  const text = divider.firstChild;
  divider.dataset.label ??= text.textContent;
  text.textContent = `${divider.dataset.label} · ${words}`;
}

/** The seconds are for the eye: a screen reader would speak each of them. */
function showWaiting(retryMs) {
  const until = Date.now() + retryMs;
  const show = () => {
    const seconds = Math.ceil((until - Date.now()) / 1000);
    $("countdown").textContent = seconds > 1 ? ` in ${seconds} s` : "";
  };
  showState("waiting", "reconnecting");
  show();
  countdown = setInterval(show, 250);
}

function showRefused(code, reason, token) {
  showState("refused", `refused: ${token ? reason : "no token"}`);
  $("hint-title").textContent = token ? `The gateway refused this page: ${reason}` : "This page needs a token";
  $("hint-text").textContent =
    token && code !== 109 && code !== 3500
      ? "The rules of this gateway do not let this page follow the channel; its log says more."
      : "Open the link that is printed in the gateway’s terminal: that of “gateway serve” carries a fresh token. With a token secret of your own it carries " +
        "none: add #token= to this address, and what “gateway token --user you” prints.";
  $("hint").hidden = false;
}

// The feed, newest first.

function showPublication(publication) {
  if (publication.recovered) caughtUp += 1;
  if (publication.offset) shown = { ...subscription.position };
  place(publicationRow(publication), feed.firstChild);
}

/** Shows what history still holds between the last publication shown and the gap's position, above the divider of the gap. */
async function showGap({ epoch, offset }) {
  const divider = addDivider("gap", "Gap · history no longer holds what came here");
  const below = divider.nextElementSibling;
  const ended = outage ?? (below?.classList.contains("outage") ? below : null); // over an event stream the line is live before its gap comes
  const after = epoch === shown.epoch ? shown.offset : 0; // the offsets of another epoch begin at 1
  outage = null; // what was missed is known when history was read
  shown = { epoch, offset };
  if (ended) describe(ended, "reading what history holds");
  const held = await readHeld(epoch, after, offset);
  let above = divider;
  for (const publication of held ?? []) above = place(publicationRow({ ...publication, recovered: true }), above);
  if (ended) describe(ended, wordsOfGap(held));
}

function wordsOfGap(held) {
  if (!held) return "what history holds of what was missed could not be read";
  return held.length ? `${held.length} caught up, history no longer holds the rest` : "history does not hold what was missed";
}

/** The publications of `epoch` after one offset up to another, the oldest first; null if they could not be read. Over HTTP, as event streams need it. */
async function readHeld(epoch, after, upTo) {
  try {
    const query = new URLSearchParams({ channel: CHANNEL, limit: ROWS_MOST, reverse: 1 });
    const response = await fetch(`history?${query}`, { headers: { authorization: `Bearer ${storedToken()}` } });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const answer = await response.json();
    const held = answer.epoch === epoch ? answer.publications : [];
    return held.filter(({ offset }) => after < offset && offset <= upTo).reverse();
  } catch (error) {
    console.warn("The history was not read:", error.message);
    return null;
  }
}

function publicationRow({ data, offset, info, recovered }) {
  const row = document.createElement("li");
  row.className = "publication";
  row.append(
    part("span", "offset", offset ? `#${offset}` : "now"),
    part("span", "text", typeof data?.text === "string" ? data.text : JSON.stringify(data)),
    part("span", "from", info?.user ? info.user : ""),
  );
  if (recovered) {
    row.classList.add("recovered");
    row.append(part("span", "badge", "caught up"));
  }
  count += 1;
  $("count").textContent = count === 1 ? "1 publication" : `${count} publications`;
  return row;
}

function addDivider(kind, text) {
  const row = document.createElement("li");
  row.className = `divider ${kind}`;
  row.append(part("span", "", text));
  return place(row, feed.firstChild);
}

/** What publishers write is set as text, never as markup. */
function part(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

/** Puts a row into the feed, above the row `below`. Where that is no longer there, newer rows fill the feed, and this one has no place. */
function place(row, below) {
  $("empty").hidden = true;
  if (below && below.parentNode !== feed) return row;
  feed.insertBefore(row, below);
  while (feed.children.length > ROWS_MOST) feed.lastChild.remove();
  return row;
}

// What people do.

async function publish(event) {
  event.preventDefault();
  const text = $("text").value.trim();
  $("fault").textContent = "";
  $("text").focus();
  if (!text) return;
  try {
    await gateway.publish(CHANNEL, { text });
    if ($("text").value.trim() === text) $("text").value = "";
  } catch (error) {
    $("fault").textContent = `Not published: ${error.message}.`;
  }
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("command").textContent);
    $("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("command"));
    $("copy").textContent = "Selected";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

$("form").addEventListener("submit", publish);
$("text").addEventListener("input", () => ($("fault").textContent = ""));
$("copy").addEventListener("click", copy);
$("cut").addEventListener("click", () => (gateway.state === "closed" ? gateway.connect() : gateway.disconnect()));
addEventListener("hashchange", () => location.hash.includes("token=") && start());
start();
