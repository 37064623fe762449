import assert from "node:assert/strict";
import { test } from "node:test";

import { ImageError } from "../src/errors.js";
import { goldenImage } from "../src/golden.js";
import { centerCrop, checkPixels, MAX_PIXELS, squarePixels } from "../src/image.js";
import { digest, vectors } from "./helpers.js";

test("crop, luma and resize give Pillow's bytes, by the test vectors of docs/artifact.md", () => {
  const rows = vectors("seed", "SHA-256 of the resized image");
  assert.ok(rows.length >= 6);
  for (const [seed, sides, size, channels, expected] of rows) {
    const [height, width] = sides.split(" x ").map(Number);
    const image = { data: goldenImage(Number(seed), height, width), width, height };
    assert.equal(
      digest(squarePixels(image, Number(size), Number(channels))),
      expected,
      `${seed} ${sides}`,
    );
  }
});

test("opaque RGBA is RGB, and transparency is laid over white", () => {
  const rgb = goldenImage(5, 30, 41);
  const rgba = new Uint8ClampedArray(30 * 41 * 4).fill(255);
  for (let pixel = 0; pixel < 30 * 41; pixel++)
    rgba.set(rgb.subarray(3 * pixel, 3 * pixel + 3), 4 * pixel);
  const size = { width: 41, height: 30 };
  assert.deepEqual(
    squarePixels({ data: rgba, ...size }, 16, 3),
    squarePixels({ data: rgb, ...size }, 16, 3),
  );
  const clear = Uint8Array.of(0, 100, 255, 0, 0, 100, 255, 128);
  assert.deepEqual(
    [...squarePixels({ data: clear.subarray(0, 4), width: 1, height: 1 }, 1, 3)],
    [255, 255, 255],
  );
  assert.deepEqual(
    [...squarePixels({ data: clear.subarray(4), width: 1, height: 1 }, 1, 3)],
    [127, 177, 255],
  );
});

test("every sample at every alpha is laid over white as by Pillow", () => {
  const data = new Uint8Array(256 * 256 * 4);
  for (let pixel = 0; pixel < 256 * 256; pixel++) {
    const x = pixel % 256;
    data.set([x, 255 - x, (x * 7) % 256, Math.floor(pixel / 256)], 4 * pixel);
  }
  const image = { data, width: 256, height: 256 };
  // Of `Preprocessing(256, channels, ...).load(image)` with Pillow 13.0.
  const colour = "25f1a6efe873107875a9a7d1d815cb8cbff22f799410698f08d3eaa94ec39d16";
  const grey = "aa2e56f28c03a7769f4dc0b0d971089dc1bf1265024ddf2227f4da64221c89cb";
  assert.equal(digest(squarePixels(image, 256, 3)), colour);
  assert.equal(digest(squarePixels(image, 256, 1)), grey);
});

test("the crop is the centred square; a remainder stays at the right or the bottom", () => {
  assert.deepEqual(centerCrop(50, 41), { left: 4, top: 0, right: 45, bottom: 41 });
  assert.deepEqual(centerCrop(3, 10), { left: 0, top: 3, right: 3, bottom: 6 });
});

test("what is no image is refused in one line", () => {
  const bytes = new Uint8Array(12);
  /** @type {[any, RegExp][]} */
  const cases = [
    [undefined, /^undefined: expected \{data, width, height\}/],
    ["photo.jpg", /^string: expected/],
    [{ data: [1, 2, 3], width: 1, height: 1 }, /^Array: expected .* bytes/],
    [{ data: new Float32Array(3), width: 1, height: 1 }, /^Float32Array: expected/],
    [{ data: bytes, width: 0, height: 2 }, /0 x 2 pixels, expected at least one/],
    [{ data: bytes, width: 1.5, height: 2 }, /1\.5 x 2 pixels, expected/],
    [{ data: bytes, width: 2, height: NaN }, /2 x NaN pixels, expected/],
    [{ data: bytes, width: 2, height: "2" }, /expected at least one/],
    [
      { data: bytes, width: 5, height: 2 },
      /5 x 2 pixels in 12 bytes, expected 40 \(RGBA\) or 30 \(RGB\)/,
    ],
    [{ data: bytes, width: 12, height: 1 }, /expected 48 \(RGBA\) or 36 \(RGB\)/],
    [
      { data: bytes, width: 20_000, height: 10_000 },
      /20000 x 10000 pixels, more than the 100,000,000 allowed/,
    ],
  ];
  for (const [image, message] of cases) {
    assert.throws(
      () => squarePixels(image, 16, 3),
      (error) => {
        assert.ok(error instanceof ImageError);
        assert.match(error.message, message);
        return true;
      },
    );
  }
  assert.equal(MAX_PIXELS, 100_000_000);
  assert.equal(checkPixels({ data: bytes, width: 2, height: 2 }), 3);
});
