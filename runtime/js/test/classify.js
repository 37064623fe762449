/**
 * Classifies images in Node, for the comparisons with Python (benchmarks/_node.py).
 *
 * Standard input: a line of JSON, `{model, images: [{width, height, bytes}]}`, then the images'
 * bytes, RGB or RGBA, one after the other. Standard output: JSON, `{probabilities, maps, labels,
 * verified}`.
 */

import { readFile } from "node:fs/promises";

import * as ort from "onnxruntime-node";

import { load } from "../src/index.js";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const input = Buffer.concat(chunks);
let end = input.indexOf("\n");
const { model: path, images } = JSON.parse(input.toString("utf8", 0, end++));

const model = await load(await readFile(path), { ort, name: path });
const predictions = [];
for (const { width, height, bytes } of images) {
  const data = input.subarray(end, (end += bytes));
  predictions.push(await model.classify({ data, width, height }));
}
const output = {
  probabilities: predictions.map(({ probabilities }) => [...probabilities]),
  maps: predictions.map(({ classMap }) => [...classMap.data]),
  labels: predictions.map(({ label }) => label),
  verified: (await model.verify()).difference,
};
process.stdout.write(JSON.stringify(output));
