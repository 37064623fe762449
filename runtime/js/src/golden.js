/**
 * Golden samples: synthetic images that any machine draws again, bit for bit, from a seed. The
 * formula is in docs/artifact.md, with test vectors.
 */

/** Identifies the formula of `goldenImage` in a model file. */
export const FORMULA = 1;

/** Largest difference of a probability between two machines, by precision. */
export const TOLERANCES = Object.freeze({ fp32: 1e-4, fp16: 1e-2, int8: 5e-2 });

/**
 * Draw the image of a seed: a two-colour gradient with rectangles, ellipses and stripes on it.
 *
 * @param {number} seed 0 to 2^31 - 1
 * @param {number} height in pixels, 1 to 2560
 * @param {number} width in pixels, 1 to 2560
 * @returns {Uint8Array} RGB, row by row
 */
export function goldenImage(seed, height, width) {
  let state = BigInt(seed);
  /** @param {number} below */
  const draw = (below) => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return Number(state >> 33n) % below;
  };
  const colour = () => [draw(256), draw(256), draw(256)];
  for (let discarded = 0; discarded < 4; discarded++) draw(1); // those of nearby seeds are alike
  const image = new Uint8Array(height * width * 3);
  /** @param {(y: number, x: number, at: number) => void} paint */
  const everywhere = (paint) => {
    for (let y = 0, at = 0; y < height; y++)
      for (let x = 0; x < width; x++, at += 3) paint(y, x, at);
  };
  const sky = colour(),
    ground = colour(),
    slope = draw(width + 1);
  everywhere((y, x, at) => {
    const mixed = Math.floor(((y * height + x * slope) * 256) / (height * height + width * width));
    const share = Math.min(mixed, 256);
    for (let channel = 0; channel < 3; channel++) {
      const change = Math.floor(((ground[channel] - sky[channel]) * share) / 256);
      image[at + channel] = sky[channel] + change;
    }
  });
  for (let shapes = 3 + draw(5); shapes > 0; shapes--) {
    const own = colour();
    const centerY = draw(height),
      centerX = draw(width);
    const halfY = 1 + draw(Math.max(1, Math.floor(height / 3)));
    const halfX = 1 + draw(Math.max(1, Math.floor(width / 3)));
    const shape = draw(3);
    everywhere((y, x, at) => {
      const down = y - centerY,
        right = x - centerX;
      const inside =
        shape === 1
          ? (down * halfX) ** 2 + (right * halfY) ** 2 <= (halfY * halfX) ** 2
          : Math.abs(down) <= halfY && Math.abs(right) <= halfX;
      // Stripes: three bands to the rectangle's height, without the one in the middle.
      if (!inside || (shape === 2 && Math.floor(((down + halfY) * 3) / (2 * halfY + 1)) === 1))
        return;
      for (let channel = 0; channel < 3; channel++) {
        image[at + channel] = Math.floor((image[at + channel] + 3 * own[channel]) / 4);
      }
    });
  }
  return image;
}
