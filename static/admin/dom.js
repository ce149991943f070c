// Makes and fills elements. What clients and publishers wrote is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** Makes an element. An attribute that is true is present; one that is false, null or undefined is not; neither is such a child. */
export function h(tag, { on = {}, ...attributes } = {}, ...children) {
  return complete(document.createElement(tag), on, attributes, children);
}

/** The same for an element of SVG. */
export function s(tag, { on = {}, ...attributes } = {}, ...children) {
  return complete(document.createElementNS(SVG, tag), on, attributes, children);
}

function complete(element, on, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, handler] of Object.entries(on)) element.addEventListener(event, handler);
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const icon = (name) => s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));

/** Text that only screen readers read. */
export const unseen = (text) => h("span", { class: "unseen" }, text);

/** Sets a text only where it differs, so that a selection and a screen reader are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute only where it differs; null removes it. */
export function setAttribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** `act` once a frame at most, however often the function that is returned is called. */
export function onceAFrame(act) {
  let asked = 0;
  return () => {
    if (asked) return;
    asked = requestAnimationFrame(() => {
      asked = 0;
      act();
    });
  };
}

/** `act` once nothing has been typed for a moment; `now` at once. */
export function afterTyping(act, ms = 180) {
  let timer;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(act, ms);
  };
  later.now = () => {
    clearTimeout(timer);
    act();
  };
  later.stop = () => clearTimeout(timer);
  return later;
}
