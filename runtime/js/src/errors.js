/**
 * The errors that the package raises on purpose. Their messages are one line and can be shown to
 * users; they have the wording of the Python runtime.
 */

export class NinEdgeError extends Error {
  name = "NinEdgeError";
}

/** A model is damaged, foreign, or of an unsupported format. */
export class ModelFileError extends NinEdgeError {
  name = "ModelFileError";
}

/** An input is not an image that can be classified. */
export class ImageError extends NinEdgeError {
  name = "ImageError";
}

/**
 * A text from anywhere as one line of at most `limit` characters; an error that quotes a file could
 * be as long as the file.
 *
 * @param {unknown} error
 * @param {number} limit
 * @returns {string}
 */
export function shortened(error, limit = 300) {
  const line = printable(
    String(error instanceof Error ? error.message : error)
      .split(/\s+/)
      .join(" ")
      .trim(),
  );
  return line.length <= limit ? line : `${line.slice(0, limit)}...`;
}

/**
 * Text with control characters escaped, so that a label cannot act on a terminal or turn the
 * direction of a page's text.
 *
 * @param {string} text
 * @returns {string}
 */
export function printable(text) {
  return text.replace(/[\p{C}\p{Z}]/gu, (char) => {
    const code = /** @type {number} */ (char.codePointAt(0));
    if (char === " ") return char;
    const short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
    if (short) return short;
    const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
    return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
}
