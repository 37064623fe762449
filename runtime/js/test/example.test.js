import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { repository } from "./helpers.js";

test("the example labels a photo and names what it cannot read", () => {
  const example = fileURLToPath(new URL("../examples/label.js", import.meta.url));
  const model = repository("runtime/nin_edge_runtime/models/nin-cifar10.int8.onnx");
  const photo = repository("examples/cat.jpg");
  const text = repository("README.md");
  const done = spawnSync(process.execPath, [example, model, text, photo], { encoding: "utf8" });
  assert.match(done.stdout, /^\S*cat\.jpg {2}cat 99\.\d%\n$/);
  assert.match(done.stderr, /^\S*README\.md: cannot be decoded .*\n$/);
  assert.equal(done.status, 1);
});
