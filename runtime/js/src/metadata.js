/**
 * A model file's metadata, checked by the rules of docs/artifact.md, which the Python runtime has
 * too. Fields have the names of that page.
 */

import { ModelFileError, printable, shortened } from "./errors.js";
import { FORMULA } from "./golden.js";
import { readModel } from "./protobuf.js";
import { sha256 } from "./sha256.js";
import * as json from "./values.js";

const { absent, boolean, integer, list, number, object, oneOf, optional, record, refuse, string } =
  json;

/** Newest format of the metadata that this package reads; it reads all older ones too. */
export const FORMAT_VERSION = 1;

const PREFIX = "nin_edge.";
const MIN_SIDE = 16,
  MAX_SIDE = 512,
  MAX_CLASSES = 65_536,
  MAX_LABEL = 1000;
const MAX_GOLDEN = 16,
  MAX_GOLDEN_SCALE = 5;
const MAX_DEPTH = 3; // of lists and objects within the architecture
const MAX_BYTES = 2 ** 31 - 1; // protobuf's own limit for one message

/**
 * A part of the certificate; null where it was not measured.
 *
 * @template T
 * @param {json.Check<T>} check
 * @returns {json.Check<T | null>}
 */
const part = (check) => (value, name) =>
  value === "not measured" ? null : optional(check)(value, name);

const measured = { data: string, images: integer, measured_with: string };
const agreement = object({
  data: optional(string),
  count: integer,
  max_abs_difference: number,
  top1_agreement: number,
  tolerance: number,
  firm_answers: optional(integer),
});
const certificate = object({
  golden: part(agreement),
  images: part(agreement),
  accuracy: part(object({ ...measured, top1: number })),
  calibration: part(object({ ...measured, ece_before: number, ece_after: number })),
  thresholds: part(
    object({
      ...measured,
      split: string,
      temperature: string,
      answers: list(object({ min_score: number, coverage: number, top1: optional(number) })),
    }),
  ),
  // The oldest files have "all" in place of a list.
  float_layers: (value, name) =>
    list(string)(typeof value === "string" ? [value].filter(Boolean) : (value ?? []), name),
  quantization: part(object({ method: string, ranges: string, images: optional(integer) })),
  budget: part(
    object({
      holdout_images: integer,
      fp32_top1: number,
      int8_top1: number,
      drop_points: number,
      max_drop_points: optional(number),
    }),
  ),
});

const ARCHITECTURE = object({
  preset: optional(string),
  block: optional(string),
  head: optional(string),
  classes: optional(integer),
  channels: optional(integer),
  size: optional(integer),
  stride: optional(integer),
  width: optional(number),
  dropout: optional(number),
  head_dropout: optional(number),
  batch_norm: optional(boolean),
  last_relu: optional(boolean),
  blocks: optional(list(list(integer, 1), 1)),
  kernels: optional(list(integer, 1)),
  pools: optional(list(string)),
});

const DATA = object({ name: absent(string), licence: absent(string), fingerprint: absent(string) });

/** @type {json.Check<string[]>} */
function labels(value, name) {
  const found = list(string)(value, name);
  if (found.length < 2 || new Set(found).size !== found.length) {
    throw new Error("expected at least two different labels");
  }
  const longest = found.reduce((most, label) => Math.max(most, [...label].length), 0);
  if (found.length > MAX_CLASSES || longest > MAX_LABEL) {
    throw new Error(
      `${found.length} labels of up to ${longest} characters, ` +
        `expected at most ${MAX_CLASSES} of at most ${MAX_LABEL}`,
    );
  }
  return found;
}

const steps = object({
  size: integer,
  channels: integer,
  mean: list(number),
  std: list(number),
  embedded: oneOf(/** @type {const} */ (["full", "normalize", "none"])),
});

/** @type {json.Check<ReturnType<typeof steps>>} */
function preprocessing(value, name) {
  const found = steps(value, name);
  const { size, channels, mean, std } = found;
  if (channels !== 1 && channels !== 3) refuse(`${name}: channels`, channels, "1 or 3");
  if (size < MIN_SIDE || size > MAX_SIDE) {
    throw new Error(`input size ${size}, expected ${MIN_SIDE} to ${MAX_SIDE} pixels`);
  }
  if (mean.length !== channels || std.length !== channels) {
    throw new Error(`${name}: expected a mean and a std for each of ${channels} channels`);
  }
  if (
    !mean.every((item) => item >= 0 && item <= 1) ||
    !std.every((item) => item > 0 && item <= 1)
  ) {
    throw new Error(`${name}: expected each mean in 0 to 1 and each std above 0, at most 1`);
  }
  return found;
}

const samples = object({
  formula: integer,
  images: list((value, name) => {
    const image = list(integer)(value, name);
    return image.length === 3 ? image : refuse(name, value, "[seed, height, width]");
  }),
  pytorch: list(list(number)),
  file: list(list(number)),
});

/**
 * @param {unknown} value
 * @param {number} classes
 * @param {number} size
 */
function golden(value, classes, size) {
  const found = samples(value, "golden samples");
  const { formula, images } = found,
    largest = MAX_GOLDEN_SCALE * size;
  if (images.length < 1 || images.length > MAX_GOLDEN) {
    throw new Error(`golden samples: ${images.length}, expected 1 to ${MAX_GOLDEN} images`);
  }
  const fits = (/** @type {number[]} */ [seed, ...sides]) =>
    seed < 2 ** 31 && sides.every((side) => side >= 1 && side <= largest);
  if (!images.every(fits)) {
    throw new Error(
      `golden samples: expected seeds of 31 bits and sizes of 1 to ${largest} pixels`,
    );
  }
  if (formula !== FORMULA) {
    throw new Error(`golden samples: formula ${formula}, this package knows ${FORMULA}`);
  }
  for (const rows of [found.pytorch, found.file]) {
    if (rows.length !== images.length || rows.some((row) => row.length !== classes)) {
      throw new Error(
        `golden samples: expected ${classes} probabilities for each of ${images.length} images`,
      );
    }
  }
  return found;
}

/**
 * @param {Record<string, unknown>} values by key, without the prefix
 */
function parse(values) {
  const classes = labels(values.labels, "labels");
  const steps = preprocessing(values.preprocessing, "preprocessing");
  const temperature = number(values.temperature, "temperature");
  if (temperature <= 0) throw new Error(`temperature ${temperature}, expected a positive number`);
  json.plain(json.fields(values.architecture, "architecture"), MAX_DEPTH);
  ARCHITECTURE(values.architecture, "architecture");
  return {
    format_version: integer(values.format_version, "format version"),
    labels: classes,
    preprocessing: steps,
    precision: oneOf(/** @type {const} */ (["fp32", "fp16", "int8"]))(
      values.precision,
      "precision",
    ),
    temperature,
    architecture: json.fields(values.architecture, "architecture"),
    parameters: integer(values.parameters, "parameters"),
    multiply_adds: integer(values.multiply_adds, "multiply_adds"),
    data: DATA(values.data, "data"),
    versions: record(string)(values.versions, "versions"),
    certificate: certificate(values.certificate, "certificate"),
    golden: golden(values.golden, classes.length, steps.size),
    engines: absent(list(string))(values.engines, "engines"),
    sha256: string(values.sha256, "sha256"),
  };
}

/**
 * A model's metadata; the fields are those of docs/artifact.md, with null for what is missing or
 * was not measured.
 *
 * @typedef {ReturnType<typeof parse>} Metadata
 */

const KEYS = [
  "labels",
  "preprocessing",
  "precision",
  "temperature",
  "architecture",
  "parameters",
  "multiply_adds",
  "data",
  "versions",
  "certificate",
  "golden",
  "sha256",
];

/**
 * Read a model file's metadata, and check that the file is whole and from `nin-edge export`.
 *
 * @param {Uint8Array} bytes the whole file
 * @param {string} name what messages call it
 * @returns {Promise<{metadata: Metadata, batch: number | null}>} `batch`: images of a run, where
 *   the graph fixes their number
 * @throws {ModelFileError} foreign, damaged, altered, or of a newer format; the message says which
 */
export async function readMetadata(bytes, name) {
  if (!bytes.length || bytes.length > MAX_BYTES) {
    const size = bytes.length ? `${bytes.length} bytes` : "an empty file";
    throw new ModelFileError(`${name}: ${size}, expected an .onnx model`);
  }
  if (isCheckpoint(bytes)) {
    throw new ModelFileError(
      `${name}: a checkpoint (safetensors), expected an .onnx model; ` +
        "`nin-edge export` makes one of it",
    );
  }
  const { properties, digits, batch } = attempt(
    `${name}: not an ONNX model, or a truncated one (`,
    ")",
    () => readModel(bytes),
  );
  if (!properties.has(`${PREFIX}format_version`)) {
    throw new ModelFileError(
      `${name}: an ONNX model without nin-edge's metadata, expected one from \`nin-edge export\``,
    );
  }
  const values = attempt(`${name}: damaged metadata: `, "", () => parseValues(properties));
  const version = /** @type {number} */ (values.format_version);
  if (version > FORMAT_VERSION) {
    throw new ModelFileError(
      `${name}: model format ${version}, this nin-edge-js reads up to ${FORMAT_VERSION}: update it`,
    );
  }
  if (!digits || values.sha256 !== (await fileSha256(bytes, digits))) {
    throw new ModelFileError(
      `${name}: damaged or altered since its export: ` +
        "its SHA-256 is not the one it carries; copy or export it again",
    );
  }
  return { metadata: attempt(`${name}: damaged metadata: `, "", () => parse(values)), batch };
}

/** @param {Map<string, string>} properties */
function parseValues(properties) {
  /** @type {Record<string, unknown>} */
  const values = Object.create(null);
  for (const [key, text] of properties) {
    if (key.startsWith(PREFIX)) values[key.slice(PREFIX.length)] = json.parseJson(text);
  }
  const version = values.format_version;
  if (!Number.isInteger(version) || /** @type {number} */ (version) < 1) {
    refuse("format version", version, "a positive integer");
  }
  if (version === FORMAT_VERSION) {
    for (const key of KEYS)
      if (!(key in values)) throw new Error(`the key ${PREFIX}${key} is missing`);
  }
  return values;
}

/**
 * SHA-256 of a file with its own 64 digits as zeros.
 *
 * @param {Uint8Array} bytes
 * @param {[number, number]} digits first byte, and the byte after the last
 */
function fileSha256(bytes, [start, end]) {
  const copy = new Uint8Array(bytes); // not `slice`: that of a Buffer of Node is a view
  return sha256(copy.fill(0x30, start, end)); // the digit 0
}

/** @param {Uint8Array} bytes */
function isCheckpoint(bytes) {
  if (bytes.length < 10 || bytes[8] !== 0x7b) return false; // a JSON object after its length
  const length = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
  return length < BigInt(bytes.length);
}

/**
 * @template T
 * @param {string} before of a message
 * @param {string} after
 * @param {() => T} action
 * @returns {T}
 */
function attempt(before, after, action) {
  try {
    return action();
  } catch (error) {
    const deep = error instanceof RangeError; // the stack's end, in the parser of JSON
    const reason = deep ? "JSON that is nested too deeply" : error;
    throw new ModelFileError(printable(before) + shortened(reason) + after);
  }
}
