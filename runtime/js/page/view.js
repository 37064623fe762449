/** Draws answers: the image with its class map, the bars, the rows of the table. */

import { drawHeatmap } from "../src/browser.js";
import { printable } from "../src/index.js";
import { answerText, facts, labelText, percent } from "./text.js";

/** @param {string} id @returns {any} */
export const element = (id) => document.getElementById(id);

/** @param {string} tag @param {string | undefined} text @param {Node[]} inside */
function create(tag, text = "", ...inside) {
  const made = document.createElement(tag);
  made.append(printable(text), ...inside);
  return made;
}

/** @param {import("../src/metadata.js").Metadata} metadata */
export function showFacts(metadata) {
  const rows = facts(metadata).flatMap(([key, value]) => [create("dt", key), create("dd", value)]);
  element("facts").replaceChildren(...rows);
  const measured = metadata.certificate.thresholds?.answers ?? [];
  element("measured").replaceChildren(...measured.map((row) => new Option("", String(row.min_score))));
}

/**
 * Show one image with its answer.
 *
 * @param {import("./text.js").Answer} answer
 * @param {number} minScore
 * @param {number} threads
 * @param {boolean} fresh whether another image was in view
 */
export function show({ file, prediction, row, ...numbers }, minScore, threads, fresh) {
  if (!prediction) return;
  const { milliseconds = 0, left = 0, top = 0, width = 1, height = 1, size = 1 } = numbers;
  const image = element("image"), heat = element("heat"), side = Math.min(width, height);
  if (fresh) {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(file);
    image.alt = printable(file.name);
    image.parentElement.style.setProperty("--ratio", width / height);
  }
  element("result").hidden = false;
  element("answer").textContent = printable(answerText({ file, prediction }, minScore));
  const flat = prediction.classMap.data.length === 1; // of a fully connected layer: no positions
  heat.hidden = flat || !element("show-heat").checked;
  heat.ariaLabel = printable(`Where the image speaks for ${prediction.label}`);
  const box = { left: left / width, top: top / height, width: side / width, height: side / height };
  for (const [name, share] of Object.entries(box)) heat.style.setProperty(name, `${100 * share}%`);
  if (!flat) drawHeatmap(heat, prediction.classMap, size);
  const bars = prediction.top(5).map(({ label, score }) => {
    const fill = create("span");
    fill.style.width = `${100 * score}%`;
    return create("li", "", create("span", label), create("span", percent(score)), create("div", "", fill));
  });
  element("bars").replaceChildren(...bars);
  const processor = `${threads} thread${threads > 1 ? "s" : ""}`;
  element("latency").textContent = `${milliseconds.toFixed(1)} ms on ${processor}, after decoding`;
  for (const other of element("rows").children) other.setAttribute("aria-current", String(other === row));
}

/** An image's row of the table. @param {import("./text.js").Answer} answer @param {number} minScore @param {() => void} choose */
export function showRow(answer, minScore, choose) {
  const { file, prediction, error, milliseconds } = answer;
  const name = create(prediction ? "button" : "span", file.name);
  if (prediction) name.onclick = choose;
  answer.row ??= element("rows").appendChild(create("tr"));
  answer.row?.replaceChildren(
    create("td", "", name),
    create("td", error ?? (prediction && labelText(prediction, minScore))),
    create("td", prediction && percent(prediction.score)),
    create("td", prediction && `${milliseconds?.toFixed(1)} ms`),
  );
}
