// Random plays, always the same ones: whatever the network, the clock and the page do, nothing is lost, comes twice or is left behind.

import { test } from "node:test";

import { play } from "./play.mjs";

const PLAYS = 100;

test("whatever happens, a page receives each publication once and in order, and is live in the end", async () => {
  for (let seed = 1; seed <= PLAYS; seed++) await play(seed);
});
