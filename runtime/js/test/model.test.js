import assert from "node:assert/strict";
import { test } from "node:test";

import * as ort from "onnxruntime-node";

import {
  goldenImage,
  ImageError,
  load,
  ModelFileError,
  NinEdgeError,
  printable,
  TOLERANCES,
} from "../src/index.js";
import { defaultModel, forge, model } from "./helpers.js";

const image = { data: goldenImage(3, 40, 50), width: 50, height: 40 };

/** ONNX Runtime with changed outputs. @param {(outputs: any) => any} change */
const broken = (change) => ({
  ...ort,
  InferenceSession: {
    create: async (/** @type {Uint8Array} */ bytes, /** @type {any} */ options) => {
      const session = await ort.InferenceSession.create(bytes, options);
      return {
        run: async (/** @type {any} */ feeds, /** @type {any} */ names) =>
          change({ ...(await session.run(feeds, names)) }),
        release: () => session.release(),
      };
    },
  },
});

test("golden samples pass in every way of embedding", async () => {
  for (const name of ["format-1", "grey", "grey-none", "none", "normalize"]) {
    const loaded = await load(model(name), { ort, name });
    const { samples, difference, tolerance, passed } = await loaded.verify();
    assert.equal(samples.length, 8);
    assert.ok(passed && difference < 1e-6, `${name} ${difference}`);
    assert.equal(tolerance, TOLERANCES.fp32);
    assert.equal(difference, Math.max(...samples.map((sample) => sample.difference)));
  }
});

test("a sample that differs by more than the tolerance fails, and is the one", async () => {
  const golden = { ...(await load(model("format-1"), { ort })).metadata.golden };
  golden.file = golden.file.map((row, index) =>
    index === 5 ? [row[0] + 2e-4, ...row.slice(1)] : row,
  );
  const forged = await load(forge(model("format-1"), { golden: JSON.stringify(golden) }), { ort });
  const { samples, passed } = await forged.verify();
  assert.equal(passed, false);
  assert.deepEqual(
    samples.map((sample) => sample.difference > 1e-4),
    [0, 1, 2, 3, 4, 5, 6, 7].map((index) => index === 5),
  );
});

test("all ways of embedding give one prediction", async () => {
  const [full, normalize, none] = await Promise.all(
    ["format-1", "normalize", "none"].map(async (name) =>
      (await load(model(name), { ort })).classify(image),
    ),
  );
  assert.deepEqual(normalize.probabilities, full.probabilities);
  assert.deepEqual(none.probabilities, full.probabilities);
  assert.deepEqual(none.classMap, full.classMap);
});

test("a prediction has the label, its map, the crop and the best classes", async () => {
  const loaded = await load(model("format-1").buffer, { ort, threads: 2 });
  const prediction = await loaded.classify(image, { minScore: 0.5 });
  const best = loaded.metadata.labels.indexOf(prediction.label);
  assert.equal(prediction.score, Math.max(...prediction.probabilities));
  assert.equal(prediction.probabilities[best], prediction.score);
  assert.ok(Math.abs(prediction.probabilities.reduce((sum, item) => sum + item) - 1) < 1e-6);
  assert.equal(prediction.unknown, false);
  assert.equal((await loaded.classify(image, { minScore: 1 })).unknown, true);
  assert.deepEqual(prediction.crop, { left: 5, top: 0, right: 45, bottom: 40 });
  const top = prediction.top(10);
  assert.deepEqual(top.map(({ label }) => label).sort(), [...loaded.metadata.labels].sort());
  assert.ok(
    top[0].label === prediction.label &&
      top[0].score >= top[1].score &&
      top[1].score >= top[2].score,
  );
  assert.deepEqual([prediction.top(1).length, prediction.top(-1).length], [1, 0]);
  const { data, width, height } = prediction.classMap;
  assert.deepEqual([data.length, width, height], [16, 4, 4]);
});

test("calls that overlap keep apart, and pixels may change after a call", async () => {
  const loaded = await load(model("format-1"), { ort });
  const images = [1, 2, 3, 4, 5, 6].map((seed) => ({
    data: goldenImage(seed, 20, 20),
    width: 20,
    height: 20,
  }));
  const alone = [];
  for (const each of images) alone.push((await loaded.classify(each)).probabilities);
  const pending = images.map((each) => {
    const copy = { ...each, data: each.data.slice() };
    const call = loaded.classify(copy);
    copy.data.fill(0);
    return call;
  });
  assert.deepEqual(
    (await Promise.all(pending)).map(({ probabilities }) => probabilities),
    alone,
  );
});

test("the session keeps float convolutions in float and takes ONNX files alone", async () => {
  /** @type {any} */
  let options;
  const spy = {
    ...ort,
    InferenceSession: {
      create: (/** @type {Uint8Array} */ bytes, /** @type {any} */ given) => {
        options = given;
        return ort.InferenceSession.create(bytes, given);
      },
    },
  };
  await load(model("format-1"), { ort: spy, executionProviders: ["cpu"], threads: 2 });
  assert.equal(options.extra.optimization.disable_specified_optimizers, "WeightBiasQuantization");
  assert.equal(options.extra.session.load_model_format, "ONNX");
  assert.deepEqual([options.intraOpNumThreads, options.executionProviders], [2, ["cpu"]]);
});

test("a bad image is refused, and the model goes on", async () => {
  const loaded = await load(model("format-1"), { ort });
  await assert.rejects(loaded.classify({ ...image, width: 49 }), ImageError);
  await assert.rejects(
    loaded.classify({ data: new Uint8Array(3), width: 20_000, height: 10_000 }),
    /100,000,000 allowed/,
  );
  await assert.rejects(loaded.classify(image, { minScore: 2 }), RangeError);
  assert.equal((await loaded.classify(image)).labels.length, 3);
});

test("outputs that are no probabilities are refused when the model is loaded", async () => {
  const tensor = (/** @type {number[]} */ values, /** @type {number[]} */ dims) => ({
    data: Float32Array.from(values),
    dims,
  });
  /** @type {[any, RegExp][]} */
  const cases = [
    [tensor([NaN, 0.5, 0.5], [1, 3]), /outputs NaN; its weights are broken/],
    [tensor([-0.1, 0.6, 0.5], [1, 3]), /-0\.100 as the smallest probability/],
    [tensor([0.9, 0.9, 0.9], [1, 3]), /a sum of 2\.70/],
    [tensor([0.5, 0.5], [1, 2]), /outputs of shapes \(1,2\) and \(1,3,4,4\), expected \(1, 3\)/],
  ];
  for (const [probabilities, message] of cases) {
    const changed = broken((outputs) => ({ ...outputs, probabilities }));
    await assert.rejects(load(model("format-1"), { ort: changed, name: "x.onnx" }), (error) => {
      assert.ok(error instanceof ModelFileError);
      assert.match(error.message, message);
      return error.message.startsWith("x.onnx: ");
    });
  }
});

test("a graph that fails names the model and is an error of one line", async () => {
  let fails = false;
  const loaded = await load(model("format-1"), {
    name: "\u001bx.onnx",
    ort: broken((outputs) => {
      if (fails) throw new Error("no\nmemory");
      return outputs;
    }),
  });
  fails = true;
  await assert.rejects(loaded.classify(image), (error) => {
    assert.ok(error instanceof NinEdgeError);
    assert.equal(error.message, "\\x1bx.onnx: fails at an image of shape 1,16,16,3 (no memory)");
    return true;
  });
  fails = false;
  await loaded.classify(image);
});

test("what ONNX Runtime cannot load and wrong arguments are named", async () => {
  const missing = {
    ...ort,
    InferenceSession: { create: async () => Promise.reject(new Error("no such operator")) },
  };
  await assert.rejects(
    load(model("format-1"), { ort: missing }),
    /model of \d+ bytes: ONNX Runtime cannot load it \(no such/,
  );
  await assert.rejects(
    load(model("format-1"), /** @type {any} */ ({})),
    /expected the module onnxruntime-web/,
  );
  await assert.rejects(
    load(model("format-1"), { ort, threads: 0 }),
    /threads 0, expected 1 to 1024/,
  );
  await assert.rejects(
    load(/** @type {any} */ ("model.onnx"), { ort }),
    /^TypeError: String: expected the bytes of a model/,
  );
});

test("the default model answers, and its samples pass", async () => {
  const loaded = await load(defaultModel(), { ort });
  const { passed, tolerance } = await loaded.verify();
  assert.deepEqual([passed, tolerance], [true, TOLERANCES.int8]);
  await loaded.release();
});

test("control characters are escaped for people", () => {
  assert.equal(
    printable("a\tb\u001b[0m\u202e\u{e0001} é😀"),
    "a\\tb\\x1b[0m\\u202e\\U000e0001 é😀",
  );
});
