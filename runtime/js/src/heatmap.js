/** In the browser: the class map, drawn to be laid over the square that the network saw. */

/** @typedef {import("./model.js").ClassMap} ClassMap */

// From transparent to yellow: brighter and more opaque with more heat, for any sight of colours.
const LEVELS = [
  [120, 40, 0, 0],
  [150, 50, 0, 0.1],
  [213, 94, 0, 0.4],
  [240, 160, 10, 0.6],
  [255, 240, 60, 0.8],
];
const WHITE = [255, 255, 255, 255];
const STEPS = 1000;

/** RGBA, 0 to 255, from the least heat to the most. */
const SHADES = Array.from({ length: STEPS + 1 }, (_, step) => {
  const level = (step / STEPS) * (LEVELS.length - 1);
  const low = Math.min(Math.floor(level), LEVELS.length - 2);
  const [red, green, blue, opacity] = LEVELS[low].map(
    (from, channel) => from + (level - low) * (LEVELS[low + 1][channel] - from),
  );
  return [red, green, blue, 255 * opacity];
});

/**
 * Draw the class map: from transparent where it is at its minimum to yellow at its maximum.
 *
 * @param {HTMLCanvasElement} canvas square; its pixels are replaced
 * @param {ClassMap} map
 * @param {number} size S, the side of the network's input
 */
export function drawHeatmap(canvas, map, size) {
  const side = canvas.width,
    heat = interpolate(map, size, side);
  const image = new ImageData(side, side);
  /** @param {number} at @param {number} other */
  const differ = (at, other) => heat[at] >= 0.5 !== heat[other] >= 0.5;
  for (let at = 0; at < heat.length; at++) {
    // A white line surrounds the hotter half.
    const line = (at % side && differ(at, at - 1)) || (at >= side && differ(at, at - side));
    image.data.set(line ? WHITE : SHADES[Math.round(STEPS * heat[at])], 4 * at);
  }
  canvas.getContext("2d")?.putImageData(image, 0, 0);
}

/**
 * Interpolate a map from its minimum, 0, to its maximum, 1. After p poolings of stride 2, cell i is
 * centred on 2^p i + 1/2 pixels of the network's input: not spread evenly over the square.
 *
 * @param {ClassMap} map
 * @param {number} size S
 * @param {number} side of the result
 * @returns {Float32Array} side * side
 */
function interpolate({ data, width, height }, size, side) {
  const low = data.reduce((a, b) => Math.min(a, b)),
    range = data.reduce((a, b) => Math.max(a, b)) - low || 1;
  /** @param {number} cells @param {number} pixel @returns {[number, number, number]} */
  const place = (cells, pixel) => {
    const stride = 2 ** Math.ceil(Math.log2(size / cells));
    const cell = Math.min(Math.max((((pixel + 0.5) / side) * size - 0.5) / stride, 0), cells - 1);
    const first = Math.floor(cell);
    return [first, Math.min(first + 1, cells - 1), cell - first];
  };
  const heat = new Float32Array(side * side);
  for (let y = 0; y < side; y++) {
    const [up, down, share] = place(height, y);
    for (let x = 0; x < side; x++) {
      const [left, right, part] = place(width, x);
      /** @param {number} row */
      const across = (row) =>
        data[row * width + left] * (1 - part) + data[row * width + right] * part;
      heat[y * side + x] = (across(up) * (1 - share) + across(down) * share - low) / range;
    }
  }
  return heat;
}
