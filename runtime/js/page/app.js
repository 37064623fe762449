/** The page: images in, labels out. Everything happens in this browser. */

import { decodeImage } from "../src/browser.js";
import { load, printable } from "../src/index.js";
import { closeCamera, openCamera, takePhoto } from "./camera.js";
import { answerText, coverageText, modelText, toCsv } from "./text.js";
import { create, element, show, showFacts, showRow } from "./view.js";

/** @typedef {import("./text.js").Answer} Answer */
/** Every image so far, in order. @type {Answer[]} */
export const answers = [];
/** @type {import("../src/index.js").Model | undefined} */
let model;
/** The image in view. @type {Answer | undefined} */
let current;
/** @type {any} ONNX Runtime */
let ort;
const field = element("min-score");
const threads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

/** @param {string} id @param {string} text */
const write = (id, text) => (element(id).textContent = printable(text));
/** @param {Error} error */
const report = (error) => write("error", error.message ?? String(error));

/** @type {Promise<unknown>} */
let queue = Promise.resolve();
/** One task at a time, in the order in which they came. @param {() => unknown} task */
const enqueue = (task) => (queue = queue.then(task).catch(report));

// A model that is refused leaves the one before in its place.
/** @param {ArrayBuffer} bytes @param {string} name */
async function useModel(bytes, name) {
  if (typeof WebAssembly === "undefined") {
    throw new Error("this browser has no WebAssembly: the model cannot run here");
  }
  const folder = new URL("../onnxruntime-web/", import.meta.url).href;
  ort ??= await import(`${folder}ort.wasm.bundle.min.js`);
  ort.env.wasm.wasmPaths = { wasm: `${folder}ort-wasm-simd-threaded.wasm` };
  const loaded = await load(new Uint8Array(bytes), { ort, threads, name });
  await model?.release();
  model = loaded;
  write("model", modelText(name, model.metadata));
  write("status", `${name} is ready`);
  write("verified", "");
  element("verify").disabled = false;
  showFacts(model.metadata);
  applyMinScore();
}

/** The smallest score that counts as an answer, 0 to 1. */
const minScore = () => (inRange() ? Number(field.value) : 0);
const inRange = () => field.value >= 0 && field.value <= 1;

function applyMinScore() {
  if (!model) return;
  const text = coverageText(model.metadata, minScore());
  write("coverage", inRange() ? text : "Expected a score from 0 to 1.");
  answers.forEach(refreshRow);
  if (current) view(current);
}

/** @param {Answer} answer */
const refreshRow = (answer) => showRow(answer, minScore(), () => view(answer));

/** @param {Answer} answer */
function view(answer) {
  show(answer, minScore(), threads);
  current = answer;
}

/** @param {Iterable<File>} given images, or a model */
function take(given) {
  const files = [...given];
  write("error", "");
  files.forEach((file, index) =>
    enqueue(async () => {
      if (/\.onnx$/i.test(file.name)) return useModel(await file.arrayBuffer(), file.name);
      const answer = await classify(file);
      refreshRow(answer);
      element("list").hidden = answers.push(answer) < 2;
      const { prediction, error } = answer;
      if (!prediction) throw new Error(`${file.name}: ${error}`);
      if (index === files.length - 1 || !current) view(answer);
      const place = files.length > 1 ? `${index + 1} of ${files.length}: ` : "";
      write("status", `${place}${file.name}: ${answerText(prediction, minScore())}`);
      return new Promise((resolve) => setTimeout(resolve)); // the page draws, and listens
    }),
  );
}

/** @param {File} file @returns {Promise<Answer>} */
async function classify(file) {
  const row = element("rows").appendChild(create("tr"));
  try {
    if (!model) throw new Error("there is no model to classify it");
    const { pixels, ...place } = await decodeImage(file);
    const started = performance.now();
    const prediction = await model.classify(pixels);
    const milliseconds = performance.now() - started;
    const { size } = model.metadata.preprocessing;
    return { file, row, place, prediction, size, milliseconds };
  } catch (/** @type {any} */ error) {
    return { file, row, error: error.message };
  }
}

async function verify() {
  if (!model) return;
  write("verified", "Replaying the golden samples.");
  const { passed, samples, difference, tolerance } = await model.verify();
  const state = passed ? "As exported" : "Not as exported";
  const result = `${samples.length} golden samples within ${difference.toPrecision(1)}`;
  write("verified", `${state}: ${result} (tolerance ${tolerance}).`);
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([toCsv(answers, minScore())], { type: "text/csv" }));
  link.download = "labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** @param {boolean} open */
function showCamera(open) {
  if (!open) closeCamera(element("video"));
  element("viewer").hidden = !open;
  element(open ? "shoot" : "camera").focus();
}

function connect() {
  element("files").onchange = () => {
    take(element("files").files);
    element("files").value = ""; // so that the same file can be chosen again
  };
  field.oninput = applyMinScore;
  element("show-heat").onchange = () => current && view(current);
  element("verify").onclick = () => enqueue(verify);
  element("csv").onclick = download;
  const video = element("video");
  element("camera").onclick = () => openCamera(video).then(() => showCamera(true), report);
  element("stop").onclick = () => showCamera(false);
  element("shoot").onclick = () => takePhoto(video).then((photo) => take([photo]), report);
  document.onpaste = (event) => take(event.clipboardData?.files ?? []);
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      element("drop").classList.toggle("over", type === "dragover");
      if (type === "drop") take(/** @type {DragEvent} */ (event).dataTransfer?.files ?? []);
    });
  }
}

/** Keep the page for offline use, where the browser can. */
async function keepOffline() {
  if (!isSecureContext) {
    element("camera").disabled = true;
    return write("note", "Plain http: the camera and offline use need https or localhost.");
  }
  const workers = navigator.serviceWorker;
  const state = workers?.controller ? "A newer page is here: reload." : "This page works offline.";
  workers?.addEventListener("controllerchange", () => write("note", state));
  return workers?.register(new URL("../sw.js", import.meta.url));
}

connect();
enqueue(async () => {
  const response = await fetch(new URL("../model.onnx", import.meta.url));
  if (!response.ok) throw new Error(`model.onnx: the server answers ${response.status}`);
  await useModel(await response.arrayBuffer(), "model.onnx");
});
enqueue(keepOffline);
