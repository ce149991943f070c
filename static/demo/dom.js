// Makes elements. What members typed is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
export const BADGE_MS = 30_000; // long enough to find all that was caught up
const ARRIVING_MS = 3000; // longer than the animations in cards.css, which would play again whenever a pane is shown
const FADE_MS = 1000; // of the badge; as in cards.css

export const $ = (id) => document.getElementById(id);

/** Makes an element. An attribute that is true is present; one that is false, null or undefined is not. */
export function h(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, handler] of Object.entries(on)) element.addEventListener(event, handler);
  element.append(...children.filter((child) => child != null));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** The colour is computed from the name, so that a member has the same one in every tab. */
export function dress(avatar, name) {
  const hash = [...name].reduce((sum, letter) => Math.imul(sum ^ letter.codePointAt(0), 16777619) >>> 0, 2166136261); // FNV-1a
  avatar.className = "avatar";
  avatar.style.setProperty("--hue", (hash >>> 8) % 360);
  avatar.textContent = name[0].toUpperCase();
  return avatar;
}

export const avatar = (name) => dress(h("span", { "aria-hidden": "true" }), name);

export function stars(rating) {
  const off = h("span", { class: "off" }, "★".repeat(5 - rating));
  return h("span", { class: "stars", role: "img", "aria-label": `${rating} of 5 stars` }, "★".repeat(rating), off);
}

export const count = (number, noun, nouns = `${noun}s`) => `${number} ${number === 1 ? noun : nouns}`;

/** Calls `act` with the button disabled, so that it runs once. An error's sentence is shown in `fault`. Returns whether it succeeded. */
export async function attempt(fault, act, button) {
  if (button?.disabled) return false;
  fault.textContent = "";
  if (button) button.disabled = true;
  try {
    await act();
    return true;
  } catch (error) {
    fault.textContent = error.message;
    return false;
  } finally {
    if (button) button.disabled = false;
  }
}

/** `act`, which is not called again while it runs. A button that is disabled meanwhile would lose the keyboard's focus. */
export function once(act) {
  let running = false;
  return async () => {
    if (running) return;
    running = true;
    await act();
    running = false;
  };
}

/** Animates an element that arrived. One that was recovered has a badge for a while. */
export function mark(element, slot, recovered) {
  element.classList.add("arriving");
  setTimeout(() => element.classList.remove("arriving"), ARRIVING_MS);
  if (!recovered || slot.querySelector(".badge")) return;
  element.classList.add("caught");
  const badge = h("span", { class: "badge", "data-testid": "recovered" }, "caught up");
  slot.append(badge);
  setTimeout(() => badge.classList.add("fading"), BADGE_MS);
  setTimeout(() => {
    badge.remove();
    element.classList.remove("caught");
  }, BADGE_MS + FADE_MS);
}

/** Scrolls to the element and moves the keyboard's focus to it. */
export function visit(element) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  element.focus({ preventScroll: true });
}
