import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { test } from "node:test";

import { sha256, sha256Plain } from "../src/sha256.js";
import { digest } from "./helpers.js";

test("both ways give SHA-256, at all lengths around a block", async () => {
  const noise = Uint8Array.from({ length: 300 }, (_, index) => (index * 167 + 13) % 256);
  for (let length = 0; length <= 200; length++) {
    const bytes = noise.subarray(3, 3 + length);
    assert.equal(sha256Plain(bytes), digest(bytes));
    if (length % 16) continue;
    assert.equal(await sha256(bytes, /** @type {any} */ (webcrypto.subtle)), digest(bytes));
  }
});

test("plain JavaScript hashes where a page has no crypto.subtle", async () => {
  const bytes = new TextEncoder().encode("abc".repeat(100_000));
  assert.equal(await sha256(bytes, undefined), digest(bytes));
});
