/**
 * Pixels of an image -> the square that the network sees, with the bytes that Pillow gives: the
 * network was trained on Pillow's crop, luma and `BILINEAR` resize, and the Python runtime feeds it
 * these. Integer arithmetic as in Pillow's Resample.c, AlphaComposite.c and Convert.c.
 */

import { ImageError } from "./errors.js";

/** Largest image that is taken, in pixels: 400 MB as RGBA. */
export const MAX_PIXELS = 100_000_000;

/**
 * @typedef {object} Pixels an image as `CanvasRenderingContext2D.getImageData` gives it
 * @property {Uint8Array | Uint8ClampedArray} data RGBA or RGB, row by row
 * @property {number} width in pixels
 * @property {number} height in pixels
 *
 * @typedef {object} Box a part of an image in pixels
 * @property {number} left
 * @property {number} top
 * @property {number} right the column after the last
 * @property {number} bottom the row after the last
 */

/**
 * The name of a value's type. `instanceof` would refuse those of another frame or test environment.
 *
 * @param {unknown} value
 * @returns {string}
 */
export const typeName = (value) => Object.prototype.toString.call(value).slice(8, -1);

/**
 * Refuse what is no image.
 *
 * @param {Pixels} image
 * @returns {number} bytes of a pixel, 3 or 4
 * @throws {ImageError} the message says what was expected
 */
export function checkPixels(image) {
  const { data, width, height } = image ?? {};
  const kind = data === undefined ? typeof image : typeName(data);
  if (kind !== "Uint8Array" && kind !== "Uint8ClampedArray") {
    throw new ImageError(
      `${kind}: expected {data, width, height} with bytes (RGBA or RGB), such as ImageData`,
    );
  }
  if (![width, height].every((side) => Number.isSafeInteger(side) && side >= 1)) {
    throw new ImageError(`image: ${width} x ${height} pixels, expected at least one`);
  }
  const pixels = width * height;
  if (pixels > MAX_PIXELS) {
    const allowed = MAX_PIXELS.toLocaleString("en");
    throw new ImageError(`image: ${width} x ${height} pixels, more than the ${allowed} allowed`);
  }
  const bytes = data.length / pixels;
  if (bytes !== 3 && bytes !== 4) {
    throw new ImageError(
      `image: ${width} x ${height} pixels in ${data.length} bytes, ` +
        `expected ${4 * pixels} (RGBA) or ${3 * pixels} (RGB)`,
    );
  }
  return bytes;
}

/**
 * The centred square that the network sees; odd remainders leave the extra pixel at the right or
 * the bottom.
 *
 * @param {number} width
 * @param {number} height
 * @returns {Box}
 */
export function centerCrop(width, height) {
  const side = Math.min(width, height);
  const left = Math.floor((width - side) / 2),
    top = Math.floor((height - side) / 2);
  return { left, top, right: left + side, bottom: top + side };
}

/**
 * Crop, lay alpha over white, reduce to luma for one-channel networks, and resize.
 *
 * @param {Pixels} image
 * @param {number} size S, the side of the network's input
 * @param {number} channels 3, or 1 for luma
 * @returns {Uint8Array} S * S * channels bytes
 * @throws {ImageError} not an image
 */
export function squarePixels(image, size, channels) {
  const bytes = checkPixels(image);
  const { left, top, right } = centerCrop(image.width, image.height);
  const side = right - left;
  const row = new Uint8Array(side * channels);
  const taps = side === size ? null : filterTaps(side, size);
  const narrow = new Uint8Array(side * size * channels); // each row resized, to 8 bits as in Pillow
  for (let y = 0; y < side; y++) {
    readRow(image.data, ((top + y) * image.width + left) * bytes, bytes, row, channels);
    const target = narrow.subarray(y * size * channels, (y + 1) * size * channels);
    if (taps) resample(taps, row, target, 1, channels);
    else target.set(row);
  }
  if (!taps) return narrow;
  const resized = new Uint8Array(size * size * channels);
  resample(taps, narrow, resized, size, channels);
  return resized;
}

/**
 * @param {Uint8Array | Uint8ClampedArray} data
 * @param {number} at the row's first byte
 * @param {number} bytes of a pixel of `data`
 * @param {Uint8Array} row filled
 * @param {number} channels of a pixel of `row`
 */
function readRow(data, at, bytes, row, channels) {
  for (let to = 0; to < row.length; to += channels, at += bytes) {
    let red = data[at],
      green = data[at + 1],
      blue = data[at + 2];
    if (bytes === 4 && data[at + 3] !== 255) {
      const alpha = data[at + 3];
      red = overWhite(red, alpha);
      green = overWhite(green, alpha);
      blue = overWhite(blue, alpha);
    }
    if (channels === 1) row[to] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
    else {
      row[to] = red;
      row[to + 1] = green;
      row[to + 2] = blue;
    }
  }
}

/** @param {number} sample 0 to 255 @param {number} alpha 0 to 255 */
function overWhite(sample, alpha) {
  const sum = (sample * alpha + 255 * (255 - alpha)) * 128 + 128 * 128;
  return ((sum >> 8) + sum) >> 15;
}

const PRECISION = 22; // bits of a weight's fraction

/**
 * @typedef {object} Taps the weights of a resize along one side
 * @property {Int32Array} first first sample of each output
 * @property {Int32Array} count number of its samples
 * @property {Int32Array} weights `width` for each output
 * @property {number} width
 *
 * @param {number} from samples before
 * @param {number} to samples after
 * @returns {Taps} of the triangle filter, as wide as the reduction
 */
function filterTaps(from, to) {
  const scale = from / to,
    support = Math.max(scale, 1),
    shrink = 1 / support;
  const width = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to),
    count = new Int32Array(to),
    weights = new Int32Array(to * width);
  for (let output = 0; output < to; output++) {
    const center = (output + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const row = Array.from({ length: end - start }, (_, tap) =>
      Math.max(0, 1 - Math.abs((tap + start - center + 0.5) * shrink)),
    );
    const sum = row.reduce((total, weight) => total + weight, 0);
    row.forEach((weight, tap) => {
      weights[output * width + tap] = Math.trunc(0.5 + (weight / sum) * 2 ** PRECISION);
    });
    first[output] = start;
    count[output] = end - start;
  }
  return { first, count, weights, width };
}

/**
 * Resize lines of samples. Sample i of a line lies `channels * stride` bytes after sample i - 1.
 *
 * @param {Taps} taps
 * @param {Uint8Array} source
 * @param {Uint8Array} target filled
 * @param {number} stride pixels from one sample to the next: 1 along a row, S along a column
 * @param {number} channels
 */
function resample({ first, count, weights, width }, source, target, stride, channels) {
  const step = stride * channels; // bytes, and the lines that lie side by side
  const half = 1 << (PRECISION - 1);
  for (let output = 0; output < first.length; output++) {
    const start = output * width,
      end = start + count[output];
    let at = first[output] * step,
      to = output * step;
    if (step === 3) {
      // the three channels of a row in one pass: most of the time is spent here
      let red = half,
        green = half,
        blue = half;
      for (let tap = start; tap < end; tap++, at += 3) {
        const weight = weights[tap];
        red += source[at] * weight;
        green += source[at + 1] * weight;
        blue += source[at + 2] * weight;
      }
      target[to] = red >> PRECISION;
      target[to + 1] = green >> PRECISION;
      target[to + 2] = blue >> PRECISION;
      continue;
    }
    for (let line = 0; line < step; line++, at++, to++) {
      let sum = half;
      for (let tap = start, sample = at; tap < end; tap++, sample += step) {
        sum += source[sample] * weights[tap];
      }
      target[to] = sum >> PRECISION;
    }
  }
}
