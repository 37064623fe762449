/** A model in ONNX Runtime: from the pixels of an image to a prediction. */

import { ModelFileError, NinEdgeError, printable, shortened } from "./errors.js";
import { goldenImage, TOLERANCES } from "./golden.js";
import { centerCrop, MAX_PIXELS, squarePixels, typeName } from "./image.js";
import { readMetadata } from "./metadata.js";

/** @typedef {import("./image.js").Pixels} Pixels */
/** @typedef {import("./image.js").Box} Box */
/** @typedef {import("./metadata.js").Metadata} Metadata */

/**
 * The module `onnxruntime-web` or `onnxruntime-node`; the caller imports it and passes it in.
 *
 * @typedef {object} Ort
 * @property {{create(bytes: Uint8Array, options?: any): Promise<any>}} InferenceSession
 * @property {new (type: any, data: any, dims: readonly number[]) => any} Tensor
 * @property {any} env
 *
 * @typedef {object} LoadOptions
 * @property {Ort} ort ONNX Runtime
 * @property {readonly any[]} [executionProviders] ONNX Runtime's names, such as `["webgpu"]`; its
 *   default (WebAssembly, or the CPU in Node) if left out
 * @property {number} [threads] of one inference, 1 if left out; WebAssembly has several only in a
 *   cross-origin isolated page, and takes the number of the first model of a page
 * @property {string} [name] what messages call the model; its size if left out
 *
 * @typedef {object} ClassMap
 * @property {Float32Array} data row by row, unscaled; their mean is the label's logit
 * @property {number} width
 * @property {number} height
 *
 * @typedef {object} Sample one golden sample on this machine
 * @property {number} seed
 * @property {number} height in pixels
 * @property {number} width in pixels
 * @property {number} difference largest of a probability from the file's own, 0 to 1
 *
 * @typedef {object} Replay the golden samples on this machine
 * @property {Sample[]} samples
 * @property {number} difference the largest of all samples; NaN where the model gives none
 * @property {number} tolerance largest difference that passes
 * @property {boolean} passed
 *
 * @typedef {object} Outputs
 * @property {Float32Array} probabilities K
 * @property {Float32Array} maps K * height * width
 * @property {number} width of a class map
 * @property {number} height of a class map
 */

const LOW = 0.99,
  HIGH = 1.01; // of the probabilities' sum; fp16 and int8 round their outputs, too

/** The network's prediction for one image. */
export class Prediction {
  /** The most probable class. @type {string} */
  label;
  /** Its probability, 0 to 1. @type {number} */
  score;
  /** Whether the score is below `minScore`; the label stands all the same. @type {boolean} */
  unknown;
  /** All K classes, in the order of `probabilities`. @type {readonly string[]} */
  labels;
  /** One per class; they sum to 1. @type {Float32Array} */
  probabilities;
  /** The class activation map of the label. @type {ClassMap} */
  classMap;
  /** The square that the network saw. @type {Box} */
  crop;

  /**
   * @param {Metadata} metadata
   * @param {Outputs} outputs
   * @param {Box} crop
   * @param {number} minScore
   */
  constructor(metadata, { probabilities, maps, width, height }, crop, minScore) {
    const best = probabilities.indexOf(probabilities.reduce((most, item) => Math.max(most, item)));
    this.label = metadata.labels[best];
    this.score = probabilities[best];
    this.unknown = this.score < minScore;
    this.labels = metadata.labels;
    this.probabilities = probabilities;
    const pixels = width * height;
    this.classMap = { data: maps.slice(best * pixels, (best + 1) * pixels), width, height };
    this.crop = crop;
  }

  /**
   * The `count` most probable classes, the best first.
   *
   * @param {number} count
   * @returns {{label: string, score: number}[]}
   */
  top(count) {
    const classes = this.labels.map((label, index) => ({
      label,
      score: this.probabilities[index],
    }));
    return classes.sort((one, other) => other.score - one.score).slice(0, Math.max(0, count));
  }
}

/** A model that runs. `load` makes it. */
export class Model {
  /** What messages call it. @type {string} */
  name;
  /** What the file says of itself. @type {Metadata} */
  metadata;
  /** Images of a run, where the graph fixes their number. @type {number | null} */
  #batch;
  #ort;
  #session;
  /** The run in progress: ONNX Runtime Web takes one at a time. @type {Promise<unknown>} */
  #running = Promise.resolve();

  /**
   * @param {Ort} ort
   * @param {any} session
   * @param {string} name
   * @param {Metadata} metadata
   * @param {number | null} batch
   */
  constructor(ort, session, name, metadata, batch) {
    this.#ort = ort;
    this.#session = session;
    this.name = name;
    this.metadata = metadata;
    this.#batch = batch;
  }

  /**
   * Classify one image. Its pixels are read before the call returns, so they may change then.
   *
   * @param {Pixels} image upright; RGBA or RGB, with transparency laid over white
   * @param {object} [options]
   * @param {number} [options.minScore] probability, 0 to 1, below which a prediction is unknown
   * @returns {Promise<Prediction>}
   * @throws {import("./errors.js").ImageError} not an image
   * @throws {RangeError} `minScore` is out of its range
   * @throws {NinEdgeError} the graph fails
   */
  async classify(image, { minScore = 0 } = {}) {
    if (!(minScore >= 0 && minScore <= 1)) {
      throw new RangeError(`minScore ${minScore}, expected a probability, 0 to 1`);
    }
    const outputs = this.#run(...this.#feed(image));
    const crop = centerCrop(image.width, image.height);
    return new Prediction(this.metadata, await outputs, crop, minScore);
  }

  /**
   * Replay the golden samples: does this machine compute what the exporting machine did? They go
   * through the graph's own steps, too.
   *
   * @returns {Promise<Replay>}
   * @throws {NinEdgeError} the graph fails
   */
  async verify() {
    const { golden, precision, preprocessing } = this.metadata;
    const samples = [];
    for (const [index, [seed, height, width]] of golden.images.entries()) {
      const image = { data: goldenImage(seed, height, width), width, height };
      const { probabilities } =
        preprocessing.embedded === "full"
          ? await this.#run("uint8", image.data, [height, width, 3])
          : await this.#run(...this.#feed(image));
      const differences = golden.file[index].map((own, label) =>
        Math.abs(own - probabilities[label]),
      );
      samples.push({ seed, height, width, difference: Math.max(...differences) });
    }
    const difference = Math.max(...samples.map((sample) => sample.difference));
    const tolerance = TOLERANCES[precision];
    return { samples, difference, tolerance, passed: difference <= tolerance };
  }

  /** Let go of the session's memory; the model cannot be used afterwards. */
  async release() {
    await this.#running;
    await this.#session.release();
  }

  /**
   * The graph's input of an image.
   *
   * @param {Pixels} image
   * @returns {[string, Uint8Array | Float32Array, number[]]} type, data and shape of one image
   */
  #feed(image) {
    const { size, channels, mean, std, embedded } = this.metadata.preprocessing;
    const pixels = squarePixels(image, size, channels);
    if (embedded === "none") {
      const area = size * size,
        planes = new Float32Array(area * channels);
      for (let channel = 0; channel < channels; channel++) {
        const scale = Math.fround(1 / (255 * std[channel])),
          shift = Math.fround(-mean[channel] / std[channel]);
        for (let at = 0; at < area; at++) {
          planes[channel * area + at] =
            Math.fround(pixels[at * channels + channel] * scale) + shift;
        }
      }
      return ["float32", planes, [channels, size, size]];
    }
    // The graph takes RGB; three equal channels have that channel as their luma.
    const rgb =
      channels === 3
        ? pixels
        : Uint8Array.from({ length: 3 * pixels.length }, (_, at) => pixels[Math.floor(at / 3)]);
    return ["uint8", rgb, [size, size, 3]];
  }

  /**
   * Run the graph on one image.
   *
   * @param {string} type
   * @param {Uint8Array | Float32Array} data
   * @param {number[]} shape without the batch
   * @returns {Promise<Outputs>}
   */
  async #run(type, data, shape) {
    const rows = this.#batch ?? 1;
    let padded = data;
    if (rows > 1) {
      padded =
        type === "uint8"
          ? new Uint8Array(rows * data.length)
          : new Float32Array(rows * data.length);
      padded.set(data);
    }
    const image = new this.#ort.Tensor(type, padded, [rows, ...shape]);
    const run = this.#running.then(() =>
      this.#session.run({ image }, ["probabilities", "class_maps"]),
    );
    this.#running = run.catch(() => undefined);
    let outputs;
    try {
      outputs = await run;
    } catch (error) {
      throw new NinEdgeError(
        `${this.name}: fails at an image of shape ${image.dims} (${shortened(error)})`,
      );
    }
    return this.#checked(outputs.probabilities, outputs.class_maps, rows);
  }

  /**
   * The first image's outputs; anything but a probability for each label is refused.
   *
   * @param {any} probabilities
   * @param {any} maps
   * @param {number} rows
   * @returns {Outputs}
   */
  #checked(probabilities, maps, rows) {
    const count = this.metadata.labels.length;
    const [height, width] = maps.dims.slice(2);
    const fits = (/** @type {number[]} */ dims, /** @type {number[]} */ expected) =>
      String(dims) === String(expected);
    if (
      !fits(probabilities.dims, [rows, count]) ||
      !fits(maps.dims, [rows, count, height, width])
    ) {
      throw new ModelFileError(
        `${this.name}: outputs of shapes (${probabilities.dims}) and (${maps.dims}), ` +
          `expected (${rows}, ${count}) and (${rows}, ${count}, h, w)`,
      );
    }
    const row = Float32Array.from(probabilities.data.subarray(0, count));
    const smallest = row.reduce((least, item) => Math.min(least, item)); // NaN where there is one
    const sum = row.reduce((total, item) => total + item, 0);
    if (Number.isNaN(smallest))
      throw new ModelFileError(`${this.name}: outputs NaN; its weights are broken`);
    if (!(smallest >= 0 && sum >= LOW && sum <= HIGH)) {
      throw new ModelFileError(
        `${this.name}: outputs ${smallest.toPrecision(3)} as the smallest probability ` +
          `and a sum of ${sum.toPrecision(3)}, expected at least 0 and a sum of 1`,
      );
    }
    return { probabilities: row, maps: maps.data, height, width };
  }
}

/**
 * Load a model, check it, start its session, and run it once.
 *
 * @param {Uint8Array | ArrayBuffer} bytes of an `.onnx` file from `nin-edge export`
 * @param {LoadOptions} options
 * @returns {Promise<Model>}
 * @throws {ModelFileError} foreign, damaged, altered, of a newer format, or it cannot be run
 */
export async function load(bytes, { ort, executionProviders, threads = 1, name }) {
  if (!ort?.InferenceSession) {
    throw new TypeError("ort: expected the module onnxruntime-web or onnxruntime-node");
  }
  if (!Number.isInteger(threads) || threads < 1 || threads > 1024) {
    throw new RangeError(`threads ${threads}, expected 1 to 1024`);
  }
  const kind = typeName(bytes);
  if (kind !== "Uint8Array" && kind !== "ArrayBuffer") {
    throw new TypeError(`${kind}: expected the bytes of a model, a Uint8Array or an ArrayBuffer`);
  }
  const data = kind === "Uint8Array" ? /** @type {Uint8Array} */ (bytes) : new Uint8Array(bytes);
  const title = printable(name ?? `model of ${data.length} bytes`);
  const { metadata, batch } = await readMetadata(data, title);
  const { size } = metadata.preprocessing;
  if (batch !== null && !(batch >= 1 && batch * size * size <= MAX_PIXELS)) {
    throw new ModelFileError(
      `${title}: ${batch} images per run of ${size} x ${size} pixels, ` +
        `expected at most ${MAX_PIXELS} pixels`,
    );
  }
  if (ort.env?.wasm) ort.env.wasm.numThreads = threads;
  let session;
  try {
    session = await ort.InferenceSession.create(data, {
      ...(executionProviders && { executionProviders }),
      intraOpNumThreads: threads,
      interOpNumThreads: 1, // the network is a chain: no operators can run in parallel
      logSeverityLevel: 4, // failures throw as well; warnings concern the graph's exporter
      extra: {
        // Since 1.23 it quantises, coarsely, the convolutions that int8 export kept in float.
        optimization: { disable_specified_optimizers: "WeightBiasQuantization" },
        session: {
          load_model_format: "ONNX", // else it guesses by the first bytes
          intra_op: { allow_spinning: "0" }, // waiting threads compete with other work
        },
      },
    });
  } catch (error) {
    throw new ModelFileError(`${title}: ONNX Runtime cannot load it (${shortened(error)})`);
  }
  const model = new Model(ort, session, title, metadata, batch);
  await warmUp(model);
  return model;
}

/**
 * Run a model once, so that no call pays for the first; refuse one whose outputs are not those of a
 * classifier.
 *
 * @param {Model} model
 */
async function warmUp(model) {
  const { size } = model.metadata.preprocessing;
  try {
    await model.classify({ data: new Uint8Array(size * size * 3), width: size, height: size });
  } catch (error) {
    await model.release();
    throw error instanceof ModelFileError
      ? error
      : new ModelFileError(/** @type {Error} */ (error).message);
  }
}
