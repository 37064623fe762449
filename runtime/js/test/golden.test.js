import assert from "node:assert/strict";
import { test } from "node:test";

import { goldenImage } from "../src/golden.js";
import { digest, vectors } from "./helpers.js";

test("the formula draws the test vectors of docs/artifact.md", () => {
  const rows = vectors("seed", "SHA-256 of the image");
  assert.ok(rows.length >= 6);
  for (const [seed, size, expected] of rows) {
    const [height, width] = size.split(" x ").map(Number);
    assert.equal(digest(goldenImage(Number(seed), height, width)), expected, `${seed} ${size}`);
  }
});
