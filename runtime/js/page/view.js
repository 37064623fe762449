/** Draws answers: the image with its class map, the bars, the rows of the table. */

import { drawHeatmap } from "../src/browser.js";
import { printable } from "../src/index.js";
import { answerText, facts, labelText, percent } from "./text.js";

/** @param {string} id @returns {any} */
export const element = (id) => document.getElementById(id);

/** @param {string} tag @param {string | undefined} text @param {Node[]} inside */
export function create(tag, text = "", ...inside) {
  const made = document.createElement(tag);
  made.append(printable(text), ...inside);
  return made;
}

/** @param {import("../src/metadata.js").Metadata} metadata */
export function showFacts(metadata) {
  const rows = facts(metadata).flatMap(([key, value]) => [create("dt", key), create("dd", value)]);
  element("facts").replaceChildren(...rows);
  const measured = metadata.certificate.thresholds?.answers ?? [];
  const options = measured.map((row) => new Option("", String(row.min_score)));
  element("measured").replaceChildren(...options);
}

/** @typedef {import("./text.js").Answer} Answer */

/** Show one image. @param {Answer} answer @param {number} minScore @param {number} threads */
export function show({ file, row, place, prediction, size = 0, ...answer }, minScore, threads) {
  if (!prediction || !place) return;
  const { left, top, width, height } = place;
  const [image, heat] = [element("image"), element("heat")];
  if (row.ariaCurrent !== "true") {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(file);
    image.alt = printable(file.name);
    image.parentElement.style.setProperty("--ratio", width / height);
    for (const other of element("rows").children) other.ariaCurrent = String(other === row);
  }
  element("result").hidden = false;
  element("answer").textContent = printable(answerText(prediction, minScore));
  const flat = prediction.classMap.data.length === 1; // of a fully connected layer: no positions
  heat.hidden = flat || !element("show-heat").checked;
  heat.ariaLabel = printable(`Where the image speaks for ${prediction.label}`);
  const side = Math.min(width, height);
  const box = { left: left / width, top: top / height, width: side / width, height: side / height };
  for (const [name, share] of Object.entries(box)) heat.style.setProperty(name, `${100 * share}%`);
  if (!flat) drawHeatmap(heat, prediction.classMap, size);
  const bars = prediction.top(5).map(({ label, score }) => {
    const fill = create("span");
    fill.style.width = `${100 * score}%`;
    const bar = create("div", "", fill);
    return create("li", "", create("span", label), create("span", percent(score)), bar);
  });
  element("bars").replaceChildren(...bars);
  const time = answer.milliseconds?.toFixed(1);
  element("latency").textContent = `${time} ms, without decoding; threads: ${threads}`;
}

/** @param {Answer} answer @param {number} minScore @param {() => void} choose to view it */
export function showRow({ file, row, prediction, error, milliseconds }, minScore, choose) {
  const name = create(prediction ? "button" : "span", file.name);
  if (prediction) name.onclick = choose;
  row.replaceChildren(
    create("td", "", name),
    create("td", error ?? (prediction && labelText(prediction, minScore))),
    create("td", prediction && percent(prediction.score)),
    create("td", prediction && `${milliseconds?.toFixed(1)} ms`),
  );
}
