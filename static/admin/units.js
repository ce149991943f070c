// Numbers, sizes and times as people read them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];
const SPANS = [
  [86_400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

export const NONE = "–";

export const number = (value) => (value == null ? NONE : whole.format(value));

/** At most three digits: 12.3K. Numbers below a thousand that are not whole have one decimal. */
export function compact(value) {
  if (value == null) return NONE;
  if (Math.abs(value) >= 10_000) return short.format(value);
  return whole.format(Math.abs(value) < 10 ? Math.round(value * 10) / 10 : Math.round(value));
}

export function bytes(value) {
  if (value == null) return NONE;
  const power = value < 1 ? 0 : Math.min(SIZES.length - 1, Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** power;
  return `${power && scaled < 10 ? scaled.toFixed(1) : Math.round(scaled)} ${SIZES[power]}`;
}

export const percent = (share) => (share == null ? NONE : `${share < 0.1 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`);

export function milliseconds(value) {
  if (value == null) return NONE;
  if (value >= 10_000) return span(value / 1000);
  return value < 10 ? `${value.toFixed(1)} ms` : `${whole.format(Math.round(value))} ms`;
}

/** A span of time in its two largest units: 3 h 12 min. */
export function span(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 1) return "0 s";
  const first = SPANS.findIndex(([size]) => seconds >= size);
  const parts = [];
  let rest = Math.floor(seconds);
  for (const [size, unit] of SPANS.slice(first, first + 2)) {
    if (rest >= size) parts.push(`${Math.floor(rest / size)} ${unit}`);
    rest %= size;
  }
  return parts.join(" ");
}

/** A span of time in its largest unit, for tables. */
export const shortSpan = (seconds) => (seconds == null ? NONE : span(seconds).split(" ").slice(0, 2).join(" "));

const secondsSince = (ms) => Math.max(0, Date.now() - ms) / 1000;

export const sinceMs = (ms) => (ms == null ? NONE : span(secondsSince(ms)));

export const shortSince = (ms) => (ms ? shortSpan(secondsSince(ms)) : NONE);

export const ago = (ms) => (ms ? `${shortSince(ms)} ago` : NONE);

/** The time of day, with the date where it is another day. */
export function time(ms) {
  if (ms == null) return NONE;
  const at = new Date(ms);
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
}

export const count = (value, noun, nouns = `${noun}s`) => `${number(value)} ${value === 1 ? noun : nouns}`;

export const position = (at) => (at?.epoch ? `${at.epoch}:${at.offset}` : NONE);

export const json = (value) => JSON.stringify(value) ?? "";
