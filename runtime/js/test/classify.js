/**
 * Classifies images in Node, for the comparisons with Python (benchmarks/_node.py).
 *
 * Standard input: a line of JSON, `{model, images: [{width, height, bytes}], rounds}`, then the
 * images' bytes, RGB or RGBA, one after the other. Standard output: JSON, `{probabilities, maps,
 * labels, verified, milliseconds}`, the last the median of a call over `rounds` of all images.
 */

import { readFile } from "node:fs/promises";

import * as ort from "onnxruntime-node";

import { load } from "../src/index.js";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const input = Buffer.concat(chunks);
const end = input.indexOf("\n");
const { model: path, images, rounds } = JSON.parse(input.toString("utf8", 0, end));

const model = await load(await readFile(path), { ort, name: path });
const predictions = [];
const times = [];
for (let round = 0; round < rounds; round++) {
  let start = end + 1;
  for (const { width, height, bytes } of images) {
    const data = input.subarray(start, start + bytes);
    start += bytes;
    const begun = performance.now();
    const prediction = await model.classify({ data, width, height });
    times.push(performance.now() - begun);
    if (round === 0) predictions.push(prediction);
  }
}
times.sort((one, other) => one - other);
const output = {
  probabilities: predictions.map(({ probabilities }) => [...probabilities]),
  maps: predictions.map(({ classMap }) => [...classMap.data]),
  labels: predictions.map(({ label }) => label),
  verified: (await model.verify()).difference,
  milliseconds: times[times.length >> 1],
};
process.stdout.write(JSON.stringify(output));
