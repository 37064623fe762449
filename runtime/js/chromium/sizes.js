/**
 * Prints the sizes of the files of several folders in bytes, as they are and with brotli.
 *
 *     node chromium/sizes.js TASK.json
 *
 * The task has `sites`, folders of `nin-edge web`; equal files are compressed once.
 */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";

const { sites } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const compressed = new Map();

/** @param {Buffer} content */
function brotli(content) {
  const digest = createHash("sha256").update(content).digest("hex");
  if (!compressed.has(digest)) compressed.set(digest, brotliCompressSync(content).length);
  return compressed.get(digest);
}

const sizes = sites.map((site) => {
  const names = readdirSync(site, { recursive: true });
  const files = names.filter((name) => statSync(join(site, name)).isFile());
  return files.map((name) => {
    const content = readFileSync(join(site, name));
    return { name, bytes: content.length, brotli: brotli(content) };
  });
});
console.log(JSON.stringify(sizes));
