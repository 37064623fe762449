/**
 * What a page needs beside the model: a file decoded to pixels, and the class map drawn over it.
 *
 *     import { decodeImage, drawHeatmap } from "nin-edge-js/browser";
 *     const { pixels } = await decodeImage(file);
 *     const prediction = await model.classify(pixels);
 *     drawHeatmap(canvas, prediction.classMap, model.metadata.preprocessing.size);
 */

export { decodeImage } from "./decode.js";
export { drawHeatmap } from "./heatmap.js";
