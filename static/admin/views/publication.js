// One publication as a row: its offset, who published it, its data, and the way to Why?.

import { h } from "../dom.js";
import { address } from "../route.js";
import { json, time } from "../units.js";

/** `ms`: when it arrived here, where that is known. */
export function publicationOf(channel, { offset, data, info, tags, recovered }, ms) {
  const place = offset
    ? h("a", { href: address("why", [], { channel, offset }), title: "Why did somebody get it, or not?" }, String(offset))
    : "live only";
  const about = [
    h("span", { class: "offset" }, place),
    ms && h("time", {}, time(ms)),
    info?.user && h("span", {}, "by ", h("a", { href: address("connections", [], { user: info.user }) }, info.user)),
    tags && h("span", {}, `tags ${json(tags)}`),
    recovered && h("span", { class: "badge warn" }, "recovered"),
  ];
  return h("li", {}, h("p", { class: "about soft" }, ...about), h("pre", { class: "data" }, json(data)));
}
