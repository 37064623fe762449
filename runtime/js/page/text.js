/** What the page says: of a model, its certificate and an answer; and the labels as CSV. */

/**
 * @typedef {import("../src/metadata.js").Metadata} Metadata
 * @typedef {import("../src/index.js").Prediction} Prediction
 *
 * @typedef {object} Answer what the page knows of an image
 * @property {File} file
 * @property {string} [error] why it has no label
 * @property {Prediction} [prediction]
 * @property {number} [milliseconds] of the classification
 * @property {number} [left] of the square that the network saw, in pixels of the upright image
 * @property {number} [top]
 * @property {number} [width] of the upright image
 * @property {number} [height]
 * @property {number} [size] S, the side of the network's input
 * @property {HTMLElement} [row] of the table
 */

/** @param {number} share 0 to 1 */
export const percent = (share) => `${(100 * share).toFixed(1)}%`;

/** @param {string[]} items @param {number} most */
const some = (items, most) => items.slice(0, most).join(", ") + (items.length > most ? ", ..." : "");

/** @param {Prediction} prediction @param {number} minScore */
export const labelText = ({ label, score }, minScore) => (score < minScore ? `unknown (${label})` : label);

/** @param {Answer} answer @param {number} minScore */
export const answerText = ({ prediction }, minScore) =>
  prediction ? `${labelText(prediction, minScore)} ${percent(prediction.score)}` : "";

/** @param {string} name @param {Metadata} metadata */
export const modelText = (name, { labels, precision }) =>
  `${name} (${precision}) knows ${labels.length} classes: ${some(labels, 12)}.`;

/** The rows of the model's table. @param {Metadata} metadata @returns {[string, string][]} */
export function facts({ certificate, data, labels, precision, preprocessing, sha256, temperature, versions }) {
  const { accuracy, calibration } = certificate, { size, channels } = preprocessing;
  const measured = accuracy && `${percent(accuracy.top1)} of ${accuracy.images.toLocaleString("en")} images, ${accuracy.data}`;
  return [
    ["Labels", some(labels, 100)],
    ["Network sees", `the centre square at ${size} x ${size}, ${channels === 3 ? "in colour" : "in grey"}`],
    ["Precision", precision],
    ["Accuracy", accuracy ? `${measured} (measured with ${accuracy.measured_with})` : "not measured"],
    ["Calibration error", calibration ? percent(calibration.ece_after) : "not measured"],
    ["Temperature", `${temperature.toPrecision(4)}; the file applies it`],
    ["Training data", `${data.name ?? "not stated"} (licence: ${data.licence ?? "not stated"})`],
    ["Exported by", `nin-edge ${versions["nin-edge"]}`],
    ["SHA-256", `${sha256} (checked)`],
  ];
}

/** What a smallest score means. @param {Metadata["certificate"]["thresholds"]} thresholds @param {number} minScore */
export function coverageText(thresholds, minScore) {
  if (!thresholds) return "This model's certificate has no thresholds: they were not measured.";
  if (minScore === 0) return "Every image gets a label, however low its score.";
  const row = thresholds.answers.filter((answer) => answer.min_score <= minScore).pop();
  if (!row) return `Nothing was measured below a score of ${thresholds.answers[0]?.min_score}.`;
  const right = row.top1 === null ? "" : `; ${percent(row.top1)} of their labels are right`;
  const images = `${thresholds.images.toLocaleString("en")} hold-out images of ${thresholds.data}`;
  return `Measured at ${row.min_score}: ${percent(row.coverage)} of ${images} score at least that${right}.`;
}

/** A line for each image: image, label, score, unknown, milliseconds, error. @param {Answer[]} answers @param {number} minScore */
export function toCsv(answers, minScore) {
  const rows = answers.map(({ file, prediction, milliseconds, error }) => {
    const { label, score = NaN } = prediction ?? {};
    const found = prediction ? [label, score, score < minScore, milliseconds?.toFixed(2)] : ["", "", "", ""];
    return [file.name, ...found, error ?? ""];
  });
  const quoted = (/** @type {unknown} */ value) =>
    /[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const lines = [["image", "label", "score", "unknown", "milliseconds", "error"], ...rows];
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}
