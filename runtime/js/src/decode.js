/** In the browser: a file -> the pixels of the square that the network sees. */

import { ImageError } from "./errors.js";
import { MAX_PIXELS } from "./image.js";

/**
 * @typedef {object} Decoded
 * @property {ImageData} pixels the centred square, transparency laid over white
 * @property {number} left of the square in the upright image, in pixels
 * @property {number} top of the square
 * @property {number} width of the upright image
 * @property {number} height of the upright image
 */

const STRIP = 4_000_000; // pixels of a canvas: some phones allow no more than 16 million

/**
 * Decode an image file by what the browser has. As in the Python runtime, EXIF rotation is applied
 * and colour profiles are not.
 *
 * @param {Blob} file
 * @returns {Promise<Decoded>}
 * @throws {ImageError} the message says why, without the file's name
 */
export async function decodeImage(file) {
  const size = await claimedSize(file);
  const millions = (size.width * size.height) / 1e6;
  if (millions > MAX_PIXELS / 1e6) {
    throw new ImageError(
      `${size.width} x ${size.height} pixels (${Math.round(millions)} megapixels), ` +
        `expected at most ${MAX_PIXELS / 1e6} megapixels`,
    );
  }
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new ImageError("damaged, or more than this device can decode");
  });
  try {
    const { width, height } = bitmap;
    const side = Math.min(width, height),
      left = (width - side) >> 1,
      top = (height - side) >> 1;
    return { pixels: square(bitmap, left, top, side), left, top, width, height };
  } finally {
    bitmap.close();
  }
}

/**
 * The size in the file's header; a small file can claim more than there is memory to decode.
 *
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number}>}
 */
async function claimedSize(file) {
  const image = new Image(),
    url = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
      image.src = url; // decoded when it is drawn, and it never is
    });
    return { width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    const head = new TextDecoder("latin1").decode(await file.slice(4, 12).arrayBuffer());
    throw new ImageError(
      /^ftyp(hei|hev|mif1|msf1)/.test(head)
        ? "HEIC, which this browser cannot decode; save it as JPEG"
        : "not an image that this browser can decode",
    );
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number} left
 * @param {number} top
 * @param {number} side
 * @returns {ImageData}
 */
function square(bitmap, left, top, side) {
  const canvas = document.createElement("canvas");
  const rows = Math.min(side, Math.max(1, Math.floor(STRIP / side)));
  canvas.width = side;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new ImageError("this device has no memory left to decode it");
  const pixels = new ImageData(side, side);
  for (let y = 0; y < side; y += rows) {
    const count = Math.min(rows, side - y);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, side, count);
    context.drawImage(bitmap, left, top + y, side, count, 0, 0, side, count);
    pixels.data.set(context.getImageData(0, 0, side, count).data, 4 * side * y);
  }
  return pixels;
}
