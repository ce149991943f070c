// The looks of both elements. A style sheet that a script makes is allowed under any content security policy.

// Names of variables begin with --_, so that they are never those of a page, whose values --gateway-… may refer to.
const SHARED = `
:host {
  --_ink: var(--gateway-ink, light-dark(#1c1b19, #eceae4));
  --_soft: var(--gateway-soft, light-dark(#66635c, #a39f95));
  --_card: var(--gateway-card, light-dark(#ffffff, #1d1d1a));
  --_line: var(--gateway-line, light-dark(#e3dfd8, #32312d));
  --_accent: var(--gateway-accent, light-dark(#0b734f, #4cc38a));
  --_wash: var(--gateway-wash, light-dark(#e6f4ed, #16281f));
  --_fault: var(--gateway-fault, light-dark(#b3261e, #ff8a80));
  --_radius: var(--gateway-radius, 0.75rem);
  position: relative;
  color: var(--_ink);
  overflow-wrap: anywhere;
}
:host([hidden]), [hidden] { display: none !important; }
* { box-sizing: border-box; margin: 0; }
ol { padding: 0; list-style: none; }
button, a { color: inherit; font: inherit; }
button {
  border: 1px solid transparent;
  border-radius: calc(var(--_radius) * 0.75);
  background: none;
  cursor: pointer;
}
button:disabled { opacity: 0.55; cursor: default; }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: -2px; }
svg { width: 1.25em; height: 1.25em; fill: none; stroke: currentcolor; stroke-width: 1.7; stroke-linecap: round; stroke-linejoin: round; }
time { color: var(--_soft); font-size: 0.8125em; white-space: nowrap; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.fault { color: var(--_fault); font-size: 0.875em; }
.fault:empty, .state:empty { display: none; }
.empty { padding: 1.5rem 1rem; color: var(--_soft); text-align: center; }
.older { display: block; width: 100%; margin-top: 0.25rem; padding: 0.5rem; color: var(--_soft); }
.older:hover, .head button:not(:disabled):hover { background: var(--_line); color: var(--_ink); }
`;

const INBOX = `
:host { display: inline-block; }
:host([inline]) { display: block; }
.bell { position: relative; display: inline-grid; place-items: center; min-width: 2.5rem; height: 2.5rem; padding: 0; font-size: inherit; }
.bell:hover, .bell[aria-expanded="true"] { background: var(--_line); }
.count {
  position: absolute;
  top: -0.125rem;
  left: 50%;
  box-sizing: content-box;
  min-width: 0.625rem;
  padding: 0 0.25rem;
  border: 2px solid var(--_card);
  border-radius: 999px;
  background: var(--gateway-badge, #b3261e);
  color: var(--gateway-badge-ink, #ffffff);
  font-size: 0.6875rem;
  font-weight: 650;
  line-height: 1rem;
  text-align: center;
}
.count:empty { display: none; }
.panel { color: inherit; background: var(--_card); }
.panel[popover] {
  --_width: min(var(--gateway-width, 25rem), 100vw - 1rem);
  position: fixed;
  inset: auto;
  left: clamp(0.5rem, var(--_bell-right, 100vw) - var(--_width), 100vw - var(--_width) - 0.5rem);
  margin: 0;
  width: var(--_width);
  max-height: min(var(--gateway-height, 36rem), var(--_room, 100dvh));
  padding: 0.5rem;
  border: 1px solid var(--_line);
  border-radius: var(--_radius);
  box-shadow: var(--gateway-shadow, 0 2px 6px rgb(0 0 0 / 12%), 0 16px 48px rgb(0 0 0 / 22%));
  overflow-y: auto;
  overscroll-behavior: contain;
}
.head { display: flex; align-items: center; gap: 0.25rem; min-height: 2.5rem; padding-inline-start: 0.625rem; background: var(--_card); }
.panel[popover] .head { position: sticky; top: -0.5rem; z-index: 1; margin: -0.5rem -0.5rem 0; padding-block: 0.5rem 0.25rem; padding-inline: 1.125rem 0.5rem; }
.head h2 { flex: 1; font-size: 1.0625em; line-height: 1.25; }
.head h2:focus { outline: none; }
.head button { min-height: 2.25rem; padding: 0 0.5rem; color: var(--_soft); font-size: 0.8125em; }
.head .close { display: grid; place-items: center; width: 2.25rem; font-size: 1em; }
.fault { padding: 0.25rem 0.625rem; }
.item { display: flex; align-items: center; border-radius: calc(var(--_radius) * 0.75); }
.item + .item { margin-top: 0.125rem; }
.item.unread { background: var(--_wash); }
.open { display: block; flex: 1; min-width: 0; padding: 0.5rem 0.625rem; border: 0; text-align: start; text-decoration: none; border-radius: inherit; }
.title, .text { display: block; unicode-bidi: plaintext; }
.text { display: -webkit-box; overflow: hidden; -webkit-box-orient: vertical; -webkit-line-clamp: 3; }
.title, .unread .text.alone { font-weight: 600; }
.open:hover :is(.title, .text) { text-decoration: underline; text-decoration-color: var(--_soft); text-underline-offset: 0.2em; }
.read { flex: none; display: grid; place-items: center; width: 2.5rem; height: 2.5rem; padding: 0; }
.read::after { content: ""; border: 0.3125rem solid var(--_accent); border-radius: 50%; } /* a border is there in forced colours too */
.read:hover::after { outline: 2px solid var(--_accent); outline-offset: 3px; }
`;

const FEED = `
:host { display: flex; flex-direction: column; }
.feed { display: flex; flex-direction: column; min-height: 0; }
.list { min-height: 0; overflow-y: auto; }
.state { padding: 0.25rem 0; color: var(--_soft); font-size: 0.875em; }
.state.waiting { animation: appear 1s step-end; }
@keyframes appear { from { visibility: hidden; } }
.item { padding: 0.625rem 0.75rem; border: 1px solid var(--_line); border-radius: var(--_radius); background: var(--_card); }
.item + .item { margin-top: 0.5rem; }
.item.recovered { background: var(--_wash); }
.user { font-weight: 600; unicode-bidi: isolate; }
.text { white-space: pre-wrap; unicode-bidi: plaintext; }
.badge { float: inline-end; margin-inline-start: 0.5rem; color: var(--_accent); font-size: 0.75em; font-weight: 600; }
`;

const sheets = new Map();

function sheet(text) {
  if (!sheets.has(text)) {
    const made = new CSSStyleSheet();
    made.replaceSync(text);
    sheets.set(text, made);
  }
  return sheets.get(text);
}

/** The style sheets of an element, which all elements of its kind share. */
export const inboxStyles = () => [sheet(SHARED), sheet(INBOX)];
export const feedStyles = () => [sheet(SHARED), sheet(FEED)];
