/**
 * Prints the files of a folder with their sizes in bytes, as they are and with brotli.
 *
 *     node chromium/sizes.js TASK.json
 *
 * The task has `site`, a folder of `nin-edge web`.
 */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";

const { site } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const names = readdirSync(site, { recursive: true });
const files = names.filter((name) => statSync(join(site, name)).isFile());
const sizes = files.map((name) => {
  const content = readFileSync(join(site, name));
  return { name, bytes: content.length, brotli: brotliCompressSync(content).length };
});
console.log(JSON.stringify(sizes));
