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

/** @typedef {import("./image.js").Box} Box */
/** @typedef {import("./image.js").Pixels} Pixels */
/** @typedef {import("./metadata.js").Metadata} Metadata */
/** @typedef {import("./model.js").ClassMap} ClassMap */
/** @typedef {import("./model.js").LoadOptions} LoadOptions */
/** @typedef {import("./model.js").Ort} Ort */
/** @typedef {import("./model.js").Replay} Replay */
/** @typedef {import("./model.js").Sample} Sample */
