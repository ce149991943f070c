// The documentation's pages: the search field, buttons that copy code, and which heading of the page is in view.

import { search } from "./docs_search.js";

const ROWS_MOST = 12;
const root = document.body.dataset.root;
const field = document.getElementById("search");
const found = document.getElementById("found");
let sections = null; // the promise of what the search looks through, from the first time that the field has the focus
let chosen = -1;

// The search.

function load() {
  sections ??= fetch(`${root}docs/search.json`).then((response) => {
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response.json();
  });
  sections.catch(() => (sections = null)); // the next key tries again
  return sections;
}

async function look() {
  const asked = field.value;
  if (!asked.trim()) return close();
  let rows;
  try {
    rows = search(await load(), asked, ROWS_MOST);
  } catch (error) {
    console.warn("The search was not loaded:", error.message);
    return show([part("p", "none", "The search could not be loaded. Is the gateway there?")]);
  }
  if (asked !== field.value) return; // what was typed since then is looked for too
  show(rows.length ? rows.map(row) : [part("p", "none", "Nothing found. Try another word.")]);
  document.getElementById("found-count").textContent = rows.length === 1 ? "1 place found" : `${rows.length} places found`;
  choose(rows.length ? 0 : -1);
}

function show(children) {
  found.replaceChildren(...children);
  found.hidden = false;
  found.scrollTop = 0;
  field.setAttribute("aria-expanded", "true");
}

function close() {
  found.hidden = true;
  field.setAttribute("aria-expanded", "false");
  choose(-1);
}

function row({ page, title, heading, anchor, excerpt }, number) {
  const link = part("a", "", "");
  link.id = `found-${number}`;
  link.href = `${root}docs/${page}${anchor && `#${anchor}`}`;
  link.tabIndex = -1;
  link.setAttribute("role", "option");
  const line = part("div", "excerpt", "");
  for (const { text, hit } of excerpt) line.append(hit ? part("mark", "", text) : text);
  link.append(part("strong", "", heading), anchor ? part("span", "where", ` · ${title}`) : "", line);
  return link;
}

function choose(number) {
  const rows = found.querySelectorAll("a");
  for (const [at, link] of rows.entries()) link.setAttribute("aria-selected", String(at === number));
  chosen = number;
  if (number < 0) field.removeAttribute("aria-activedescendant");
  else field.setAttribute("aria-activedescendant", `found-${number}`);
  rows[number]?.scrollIntoView({ block: "nearest" });
}

function steer(event) {
  const rows = found.querySelectorAll("a");
  if (event.key === "Escape") {
    if (found.hidden) field.blur();
    close();
  } else if (found.hidden || !rows.length) return;
  else if (event.key === "ArrowDown") choose((chosen + 1) % rows.length);
  else if (event.key === "ArrowUp") choose((chosen - 1 + rows.length) % rows.length);
  else if (event.key === "Enter") rows[Math.max(chosen, 0)].click();
  else return;
  event.preventDefault();
}

function focusByKey(event) {
  const elsewhere = !event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && elsewhere && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    field.focus();
    field.select();
  }
}

// The page.

function part(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

function addCopying(box) {
  const button = part("button", "copy", "Copy");
  const code = box.querySelector("code");
  button.type = "button";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  box.append(button);
}

/** What scrolls sideways can be reached by keyboard; what fits is no stop on the way. */
function letScroll(element) {
  if (element.scrollWidth > element.clientWidth) {
    element.tabIndex = 0;
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", element.tagName === "PRE" ? "Code" : "Table");
  } else ["tabindex", "role", "aria-label"].forEach((name) => element.removeAttribute(name));
}

function showCurrentPage() {
  const pages = document.getElementById("pages");
  const current = pages.querySelector("[aria-current]");
  if (current) pages.scrollTop = current.offsetTop - pages.clientHeight / 2;
}

function followHeadings() {
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const headings = [...links.keys()].map((anchor) => document.getElementById(anchor));
  const mark = () => {
    const above = headings.filter((heading) => heading.getBoundingClientRect().top < 120);
    for (const link of links.values()) link.classList.remove("here");
    links.get((above.at(-1) ?? headings[0])?.id)?.classList.add("here");
  };
  if (!headings.length) return;
  new IntersectionObserver(mark, { rootMargin: "-110px 0px 0px" }).observe(document.querySelector("main"));
  addEventListener("scroll", mark, { passive: true });
  mark();
}

document.querySelector(".search").hidden = false;
field.addEventListener("focus", () => load().catch(() => {}));
field.addEventListener("input", look);
field.addEventListener("keydown", steer);
field.addEventListener("focus", () => field.value && look());
document.addEventListener("keydown", focusByKey);
document.addEventListener("pointerdown", (event) => event.target.closest(".search") || close());
found.addEventListener("click", () => close());
document.querySelectorAll(".code").forEach(addCopying);
const widths = new ResizeObserver((entries) => entries.forEach(({ target }) => letScroll(target)));
document.querySelectorAll(".table, pre").forEach((element) => widths.observe(element));
showCurrentPage();
document.getElementById("pages").addEventListener("toggle", showCurrentPage); // on a phone it has no height until it is opened
followHeadings();
