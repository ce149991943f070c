// Times relative to now, updated while the page is open.

import { h } from "./dom.js";

const REFRESH_MS = 20_000; // a third of the smallest step that is shown
const STEPS = [
  [60, "min"],
  [60 * 24, "h"],
  [Infinity, "d"],
];
const MINUTES = { min: 1, h: 60, d: 60 * 24 };

function relative(ms) {
  const minutes = Math.floor((Date.now() - ms) / 60_000); // a server's clock may be ahead of ours: that is just now
  if (minutes < 1) return "just now";
  const [, unit] = STEPS.find(([below]) => minutes < below);
  return `${Math.floor(minutes / MINUTES[unit])} ${unit} ago`;
}

export function time(ms) {
  const when = new Date(ms);
  return h("time", { datetime: when.toISOString(), title: when.toLocaleString() }, relative(ms));
}

setInterval(() => {
  for (const element of document.querySelectorAll("time")) element.textContent = relative(Date.parse(element.dateTime));
}, REFRESH_MS);
