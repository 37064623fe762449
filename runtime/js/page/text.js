/** What the page says: of a model, its certificate and an answer; and the labels as CSV. */

/**
 * @typedef {import("../src/metadata.js").Metadata} Metadata
 * @typedef {import("../src/index.js").Prediction} Prediction
 * @typedef {object} Answer what the page knows of an image
 * @property {File} file
 * @property {HTMLElement} row of the table
 * @property {string} [error] why it has no label; if it has one, there are the following
 * @property {Omit<import("../src/decode.js").Decoded, "pixels">} [place]
 * @property {Prediction} [prediction]
 * @property {number} [size] S, the side of the network's input
 * @property {number} [milliseconds] of the classification
 */

/** @param {number} share 0 to 1 */
export const percent = (share) => `${(100 * share).toFixed(1)}%`;

/** @param {string[]} items @param {number} most */
const some = (items, most) => [...items.slice(0, most), ...(items[most] ? ["..."] : [])].join(", ");

/** @param {Prediction} prediction @param {number} minScore */
export const labelText = ({ label, score }, minScore) =>
  score < minScore ? `unknown (${label})` : label;

/** @param {Prediction} prediction @param {number} minScore */
export const answerText = (prediction, minScore) =>
  `${labelText(prediction, minScore)} ${percent(prediction.score)}`;

/** @param {string} name @param {Metadata} metadata */
export const modelText = (name, { labels, precision }) =>
  `${name} (${precision}) knows ${labels.length} classes: ${some(labels, 12)}.`;

/** The rows of the model's table. @param {Metadata} metadata @returns {[string, string][]} */
export function facts({ certificate, data, labels, preprocessing, ...metadata }) {
  const { accuracy, calibration } = certificate;
  const { size, channels } = preprocessing;
  const images = `${accuracy?.images.toLocaleString("en")} images of ${accuracy?.data}`;
  const share = accuracy && `${percent(accuracy.top1)} (${images}, with ${accuracy.measured_with})`;
  return [
    ["Labels", some(labels, 100)],
    [
      "Network sees",
      `the centre square, ${size} x ${size}, in ${channels > 1 ? "colour" : "grey"}`,
    ],
    ["Accuracy", share ?? "not measured"],
    ["Calibration error", calibration ? percent(calibration.ece_after) : "not measured"],
    ["Temperature", `${metadata.temperature.toPrecision(4)}; the file applies it`],
    ["Training data", `${data.name ?? "not stated"} (licence: ${data.licence ?? "not stated"})`],
    ["Exported by", `nin-edge ${metadata.versions["nin-edge"]}`],
    ["SHA-256", `${metadata.sha256} (checked)`],
  ];
}

/** What a smallest score means. @param {Metadata} metadata @param {number} minScore */
export function coverageText({ certificate: { thresholds } }, minScore) {
  if (!thresholds) return "This model's certificate has no thresholds: they were not measured.";
  if (minScore === 0) return "Every image gets a label, however low its score.";
  const row = thresholds.answers.filter((answer) => answer.min_score <= minScore).pop();
  if (!row) return `Nothing was measured below a score of ${thresholds.answers[0]?.min_score}.`;
  const images = `${thresholds.images.toLocaleString("en")} hold-out images of ${thresholds.data}`;
  const right = row.top1 === null ? "" : `; ${percent(row.top1)} of their labels are right`;
  const share = `${percent(row.coverage)} of ${images} score at least that${right}`;
  return `Measured at ${row.min_score}: ${share}.`;
}

/** The labels, a line for each image. @param {Answer[]} answers @param {number} minScore */
export function toCsv(answers, minScore) {
  const rows = answers.map(({ file, prediction, milliseconds, error }) =>
    prediction
      ? [
          file.name,
          prediction.label,
          prediction.score,
          prediction.score < minScore,
          milliseconds,
          "",
        ]
      : [file.name, "", "", "", "", error],
  );
  const quoted = (/** @type {unknown} */ value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = [["image", "label", "score", "unknown", "milliseconds", "error"], ...rows];
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}
