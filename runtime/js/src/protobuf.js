/**
 * The few fields of an ONNX file that the package reads from its bytes: ONNX Runtime's JavaScript
 * API has no call for the metadata. See protobuf.dev/programming-guides/encoding and onnx.proto.
 */

const VARINT = 0,
  FIXED64 = 1,
  BYTES = 2,
  FIXED32 = 5;

const MAX_METADATA = 16_000_000; // bytes: a thousand classes take 200,000

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @typedef {{number: number, start: number, end: number, value: number}} Field */

/**
 * The fields of a message; `value` is that of a varint, the others lie from `start` to `end`.
 *
 * @param {Uint8Array} bytes
 * @param {number} position
 * @param {number} end
 * @returns {Generator<Field>}
 * @throws {Error} the bytes are no message
 */
export function* fields(bytes, position, end) {
  const varint = () => {
    let value = 0; // exact below 2^53; larger ones are no lengths, and are refused as such
    for (let scale = 1; position < end && scale < 2 ** 70; scale *= 128) {
      const byte = bytes[position++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new Error(`a broken number at byte ${position}`);
  };
  while (position < end) {
    const tag = varint(),
      wire = tag % 8,
      number = Math.floor(tag / 8);
    if (number < 1 || number >= 2 ** 29)
      throw new Error(`field number ${number} at byte ${position}`);
    let start = position,
      value = 0;
    if (wire === VARINT) value = varint();
    else if (wire === BYTES) {
      const length = varint();
      start = position;
      position += length;
    } else if (wire === FIXED32 || wire === FIXED64) position += wire === FIXED32 ? 4 : 8;
    else throw new Error(`wire type ${wire} at byte ${position}`);
    if (position > end)
      throw new Error(`a field ends at byte ${position}, beyond the end at ${end}`);
    yield { number, start, end: position, value };
  }
}

/**
 * @typedef {object} Outline
 * @property {Map<string, string>} properties its metadata
 * @property {[number, number] | null} digits position of the 64 digits of its SHA-256
 * @property {number | null} batch images of a run, where the graph fixes their number
 */

/**
 * Read the parts of a ModelProto that describe it.
 *
 * @param {Uint8Array} bytes the whole file
 * @returns {Outline}
 * @throws {Error} not an ONNX model, or a truncated one
 */
export function readModel(bytes) {
  /** @type {Map<string, string>} */
  const properties = new Map();
  /** @type {[number, number] | null} */
  let digits = null;
  /** @type {Field | null} */
  let graph = null;
  let size = 0;
  for (const field of fields(bytes, 0, bytes.length)) {
    if (field.number === 7) graph = field;
    if (field.number !== 14) continue; // metadata_props
    size += field.end - field.start;
    if (size > MAX_METADATA)
      throw new Error(`more than ${MAX_METADATA.toLocaleString("en")} bytes of metadata`);
    const [key, value] = [1, 2].map((number) => last(bytes, field, number));
    const [name, text] = [key, value].map((part) =>
      part ? UTF8.decode(bytes.subarray(part.start, part.end)) : "",
    );
    if (properties.has(name))
      throw new Error(`metadata key ${JSON.stringify(name.slice(0, 80))} twice`);
    properties.set(name, text);
    // The digits stand between JSON's quotation marks.
    if (name === "nin_edge.sha256" && value && text.length === 66)
      digits = [value.start + 1, value.end - 1];
  }
  if (!graph) throw new Error("it holds no graph");
  return { properties, digits, batch: fixedBatch(bytes, graph) };
}

/**
 * The first dimension of the graph's input: GraphProto.input.type.tensor_type.shape.dim.dim_value.
 *
 * @param {Uint8Array} bytes
 * @param {Field} graph
 */
function fixedBatch(bytes, graph) {
  /** @type {Field | null} */
  let inner = graph;
  for (const number of [11, 2, 1, 2, 1, 1]) {
    inner = inner && first(bytes, inner, number);
  }
  return inner ? inner.value : null;
}

/** @param {Uint8Array} bytes @param {Field} outer @param {number} number @returns {Field | null} */
function first(bytes, outer, number) {
  for (const field of fields(bytes, outer.start, outer.end))
    if (field.number === number) return field;
  return null;
}

/** @param {Uint8Array} bytes @param {Field} outer @param {number} number @returns {Field | null} */
function last(bytes, outer, number) {
  let found = null;
  for (const field of fields(bytes, outer.start, outer.end))
    if (field.number === number) found = field;
  return found;
}
