/**
 * Runs nin-edge's image classifiers in the browser and in Node.
 *
 *     import * as ort from "onnxruntime-node"; // or "onnxruntime-web"
 *     import { load } from "nin-edge-js";
 *     const model = await load(bytes, { ort });
 *     const prediction = await model.classify(imageData);
 */

export { ImageError, ModelFileError, NinEdgeError, printable } from "./errors.js";
export { goldenImage, TOLERANCES } from "./golden.js";
export { MAX_PIXELS } from "./image.js";
export { FORMAT_VERSION } from "./metadata.js";
export { load, Model, Prediction } from "./model.js";
