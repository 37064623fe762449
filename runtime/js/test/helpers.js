/** What the tests share: committed models, and forged ones. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { fields, readModel } from "../src/protobuf.js";

/** @param {string} path from the repository's root */
export const repository = (path) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

/** @param {string} name such as `format-1` @returns {Uint8Array} */
export const model = (name) =>
  new Uint8Array(readFileSync(repository(`tests/data/${name}.fp32.onnx`)));

export const defaultModel = () =>
  new Uint8Array(readFileSync(repository("runtime/nin_edge_runtime/models/nin-cifar10.int8.onnx")));

/** @param {Uint8Array} bytes */
export const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

/**
 * The rows of a table of docs/artifact.md, of cells, by the title of its first and last column.
 *
 * @param {string} first
 * @param {string} last
 * @returns {string[][]}
 */
export function vectors(first, last) {
  const lines = readFileSync(repository("docs/artifact.md"), "utf8").split("\n");
  const start = lines.findIndex(
    (line) => line.startsWith(`| ${first} |`) && line.endsWith(`| ${last} |`),
  );
  const rows = lines.slice(start + 2);
  return rows
    .slice(
      0,
      rows.findIndex((line) => !line.startsWith("|")),
    )
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim().replaceAll("`", "")),
    );
}

/** @param {number} value */
function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}

/** @param {number} number @param {Uint8Array} payload */
const field = (number, payload) =>
  Buffer.concat([varint(number * 8 + 2), varint(payload.length), payload]);

/** @param {string} key @param {string} value */
const entry = (key, value) =>
  field(14, Buffer.concat([field(1, Buffer.from(key)), field(2, Buffer.from(value))]));

/**
 * Change the metadata of a model as a forger would: its SHA-256 fits again.
 *
 * @param {Uint8Array} bytes
 * @param {Record<string, string | null>} changes JSON by key without its prefix; null removes a key
 * @param {Uint8Array[]} added fields at the end
 * @returns {Uint8Array}
 */
export function forge(bytes, changes, added = []) {
  const parts = [];
  let begin = 0;
  for (const { number, end } of fields(bytes, 0, bytes.length)) {
    if (number !== 14) parts.push(bytes.slice(begin, end));
    begin = end;
  }
  const properties = readModel(bytes).properties;
  properties.set("nin_edge.sha256", `"${"0".repeat(64)}"`);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) properties.delete(`nin_edge.${key}`);
    else properties.set(`nin_edge.${key}`, value);
  }
  const forged = Buffer.concat([
    ...parts,
    ...[...properties].map(([key, value]) => entry(key, value)),
    ...added,
  ]);
  const place = forged.indexOf(`"${"0".repeat(64)}"`);
  if (place > 0) forged.write(digest(forged), place + 1);
  return new Uint8Array(forged);
}

/** A metadata entry on its own. */
export { entry };
