// How often an element is drawn where much changes at once, and in which language.

import assert from "node:assert/strict";
import { test } from "node:test";

import { languageTag, paced } from "../../../static/elements/base.js";

test("what changes a thousand times at once is drawn a few times, and in the end as it is", async () => {
  let [value, drawn, draws] = [0, null, 0];
  const { soon } = paced(() => {
    drawn = value;
    draws += 1;
  });
  const begun = performance.now();
  for (value = 1; value <= 1000; value += 1) soon();
  const most = 2 + (performance.now() - begun) / 16;
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.ok(draws <= most, `${draws} times`);
  assert.equal(drawn, value);
});

test("a first change is drawn at once, and one that waits is forgotten at the end", async () => {
  let draws = 0;
  const { now, soon, stop } = paced(() => (draws += 1));
  soon();
  assert.equal(draws, 1);
  soon();
  stop();
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.equal(draws, 1);
  now();
  assert.equal(draws, 2);
});

test("a page's language is one that dates can be shown in, whatever its lang says", () => {
  const tags = ["de-AT", "en_US", "x", "english!", "", undefined].map(languageTag);
  assert.deepEqual(tags, ["de-AT", "en-US", undefined, undefined, undefined, undefined]);
  for (const tag of tags) new Intl.RelativeTimeFormat(tag);
});
