import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ModelFileError } from "../src/errors.js";
import { readMetadata } from "../src/metadata.js";
import { defaultModel, entry, forge, model, repository } from "./helpers.js";

const MODELS = ["format-1", "grey", "grey-none", "none", "normalize"];

/** @param {Uint8Array} bytes @param {RegExp} message */
async function refused(bytes, message) {
  await assert.rejects(readMetadata(bytes, "model"), (error) => {
    assert.ok(error instanceof ModelFileError, String(error));
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /[\n\u001b]/);
    assert.ok(error.message.startsWith("model: "));
    assert.ok(error.message.length < 500);
    return true;
  });
}

test("metadata of all committed files is read, typed", async () => {
  for (const name of MODELS) {
    const { metadata, batch } = await readMetadata(model(name), name);
    assert.deepEqual(metadata.labels, ["circle", "square", "étoile"]);
    assert.equal(
      metadata.preprocessing.embedded,
      { "format-1": "full", grey: "full", "grey-none": "none" }[name] ?? name,
    );
    assert.equal(metadata.preprocessing.channels, name.startsWith("grey") ? 1 : 3);
    assert.equal(metadata.temperature, 1.5);
    assert.equal(metadata.golden.images.length, 8);
    assert.equal(metadata.certificate.golden?.firm_answers, 8);
    assert.equal(metadata.certificate.accuracy, null); // not measured
    assert.equal(batch, null);
  }
});

test("the certificate's thresholds are read", async () => {
  const { metadata } = await readMetadata(defaultModel(), "default");
  assert.equal(metadata.precision, "int8");
  const answers = metadata.certificate.thresholds?.answers ?? [];
  assert.ok(answers.length > 3);
  for (const { min_score, coverage, top1 } of answers) {
    assert.ok(min_score > 0 && coverage > 0 && coverage < 1 && top1 !== null && top1 > 0.9);
  }
});

test("values that every reader takes are taken, and the others refused", async () => {
  const bytes = model("format-1");
  const cases = JSON.parse(readFileSync(repository("tests/data/metadata_cases.json"), "utf8"));
  for (const { key, json, taken } of cases) {
    const forged = forge(bytes, { [key]: json });
    if (taken) await readMetadata(forged, json);
    else
      await refused(
        forged,
        /damaged metadata: |SHA-256|model format 2, this nin-edge-js reads up to 1/,
      );
  }
});

test("a missing key is named", async () => {
  const { properties } = await import("../src/protobuf.js").then(({ readModel }) =>
    readModel(model("format-1")),
  );
  for (const key of [...properties.keys()].map((name) => name.slice("nin_edge.".length))) {
    const said = {
      format_version: /without nin-edge's metadata/,
      sha256: /sha256 is missing|SHA-256/,
    }[key];
    await refused(
      forge(model("format-1"), { [key]: null }),
      said ?? RegExp(`the key nin_edge\\.${key} is missing`),
    );
  }
});

test("a newer format is refused, naming both", async () => {
  await refused(
    forge(model("format-1"), { format_version: "42", labels: "[]" }),
    /model format 42, .* up to 1: update/,
  );
});

test("unknown keys are ignored", async () => {
  const forged = forge(model("format-1"), { invented: '{"later": [1, 2]}' }, [
    entry("other.tool", "not JSON"),
  ]);
  assert.equal((await readMetadata(forged, "forged")).metadata.precision, "fp32");
});

test("JSON that is nested too deeply is refused", async () => {
  const deep = "[".repeat(1e5) + "]".repeat(1e5);
  await refused(forge(model("format-1"), { later: deep }), /JSON that is nested too deeply/);
});

test("labels of control characters stay as they are; messages escape them", async () => {
  const labels = ["\u0007\u001b[31m", "\u202e", "b\n"];
  const { metadata } = await readMetadata(
    forge(model("format-1"), { labels: JSON.stringify(labels) }),
    "forged",
  );
  assert.deepEqual(metadata.labels, labels);
  await refused(
    forge(model("format-1"), { precision: '"\\u001b[31m\\n"' }),
    /damaged metadata: precision: .*x1b|u001b/,
  );
});

test("foreign files are named with the reason", async () => {
  const encode = (/** @type {string} */ text) => new TextEncoder().encode(text);
  await refused(new Uint8Array(), /an empty file/);
  await refused(encode("this is a text\n"), /not an ONNX model, or a truncated one/);
  await refused(
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10, 0, 0, 0, 13),
    /not an ONNX model/,
  );
  await refused(new Uint8Array(100), /not an ONNX model/);
  await refused(Uint8Array.of(8, 8), /it holds no graph/);
  await refused(Uint8Array.of(8, ...Array(20).fill(255)), /a broken number/);
  await refused(Uint8Array.of(0x3a, ...Array(9).fill(255), 0x7f), /not an ONNX model/);
  await refused(
    Buffer.concat([Uint8Array.of(8, 8, 0x3a, 0), entry("author", "someone")]),
    /without nin-edge's metadata/,
  );
  await refused(
    new Uint8Array(readFileSync(repository("tests/data/tiny.safetensors"))),
    /a checkpoint .*nin-edge export/,
  );
  await refused(
    forge(model("format-1"), {}, [entry("nin_edge.labels", "[]")]),
    /metadata key "nin_edge\.labels" twice/,
  );
  await refused(
    forge(model("format-1"), {}, [entry("a", "x".repeat(16_000_000))]),
    /16,000,000 bytes of metadata/,
  );
  await refused(
    forge(model("format-1"), {}, [Buffer.from([0x72, 4, 0x0a, 2, 0xff, 0xff])]),
    /not an ONNX model/,
  ); // UTF-8
});

test("no truncated file and no flipped bit is accepted", async () => {
  const bytes = model("format-1");
  for (let length = 0; length < bytes.length; length += 97)
    await refused(bytes.slice(0, length), /./);
  for (let position = 0; position < bytes.length; position += 61) {
    const damaged = bytes.slice();
    damaged[position] ^= 1 << (position % 8);
    await refused(damaged, /./);
  }
});

test("the caller's bytes stay as they are, also those of a Buffer", async () => {
  const bytes = Buffer.from(model("format-1"));
  const before = Buffer.from(bytes).toString("hex");
  await readMetadata(bytes, "buffer");
  await readMetadata(bytes, "again");
  assert.equal(bytes.toString("hex"), before);
});

test("a view of a larger buffer is read like a copy", async () => {
  const bytes = model("format-1"),
    buffer = new Uint8Array(bytes.length + 20);
  buffer.set(bytes, 7);
  const { metadata } = await readMetadata(buffer.subarray(7, 7 + bytes.length), "view");
  assert.equal(metadata.sha256, (await readMetadata(bytes, "copy")).metadata.sha256);
});
