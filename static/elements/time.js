// Times relative to now, in the page's language.

const STEPS = [
  [60, "minute", 1],
  [60 * 24, "hour", 60],
  [60 * 24 * 30, "day", 60 * 24],
  [60 * 24 * 365, "month", 60 * 24 * 30],
  [Infinity, "year", 60 * 24 * 365],
];

/** Shows a time, in milliseconds or as text, in a <time>. What is no time is shown as it is: text, or JSON. */
export function showTime(element, value, language) {
  const isText = typeof value === "string";
  const when = new Date(isText || typeof value === "number" ? value : NaN);
  if (Number.isNaN(when.getTime())) return void (element.textContent = isText ? value : JSON.stringify(value));
  element.dateTime = when.toISOString();
  element.title = when.toLocaleString(language);
  element.textContent = relative(when.getTime(), new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" }));
}

function relative(ms, words) {
  const minutes = Math.floor((Date.now() - ms) / 60_000);
  if (minutes < 1) return words.format(0, "second"); // a server's clock may be ahead of ours: that is now, too
  const [, unit, length] = STEPS.find(([below]) => minutes < below);
  return words.format(-Math.floor(minutes / length), unit);
}
