/**
 * Labels photos in Node: `node examples/label.js model.onnx photo.jpg...`, after
 * `npm install onnxruntime-node sharp`. sharp decodes the photos; nin-edge-js takes pixels.
 */

import { readFile } from "node:fs/promises";

import { load, NinEdgeError, printable } from "nin-edge-js";
import * as ort from "onnxruntime-node";
import sharp from "sharp";

const [path, ...photos] = process.argv.slice(2);
const model = await load(await readFile(path), { ort, name: path });
for (const photo of photos) {
  try {
    const upright = sharp(photo).autoOrient().toColourspace("srgb").ensureAlpha();
    const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
    const { label, score } = await model.classify({ data, width: info.width, height: info.height });
    console.log(`${printable(photo)}  ${printable(label)} ${(100 * score).toFixed(1)}%`);
  } catch (error) {
    const reason = error instanceof NinEdgeError ? error.message : `cannot be decoded (${error})`;
    console.error(`${printable(photo)}: ${printable(reason)}`);
    process.exitCode = 1;
  }
}
