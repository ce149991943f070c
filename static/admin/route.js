// Addresses within the page: #/channels/posts%3A1?tail=on. Everything that is shown has one.

/** The place that an address names: `parts` after the view's name, and its query. */
export function placeOf(hash) {
  const [path, query = ""] = hash.replace(/^#?\/?/, "").split("?");
  const [name = "", ...parts] = path.split("/").map(decoded);
  return { name, parts: parts.filter(Boolean), query: new URLSearchParams(query) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a person typed a percent sign
  }
}

/** The address of a place. What is empty in the query is left out. */
export function address(name, parts = [], query = {}) {
  const filled = Object.entries(query).filter(([, value]) => value !== "" && value != null && value !== false);
  const search = filled.length ? `?${new URLSearchParams(filled)}` : "";
  return `#/${[name, ...parts].map(encodeURIComponent).join("/")}${search}`;
}

/** Changes the address without a step in the browser's history, as while someone types. */
export function replaceAddress(hash) {
  if (hash !== location.hash) history.replaceState(null, "", hash);
}
