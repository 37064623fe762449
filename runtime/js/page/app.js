/** The page: images in, labels out. Everything happens in this browser. */

import { decodeImage } from "../src/browser.js";
import { load, printable } from "../src/index.js";
import { closeCamera, openCamera, takePhoto } from "./camera.js";
import { answerText, coverageText, modelText, toCsv } from "./text.js";
import { element, show, showFacts, showRow } from "./view.js";

/** @typedef {import("./text.js").Answer} Answer */
/** Every image so far, in order. @type {Answer[]} */
export const answers = [];
/** @type {import("../src/index.js").Model | undefined} */
let model;
/** The image in view. @type {Answer | undefined} */
let current;
/** @type {any} ONNX Runtime */
let ort;
const threads = crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

/** @param {string} id @param {string} text */
const write = (id, text) => (element(id).textContent = printable(text));
/** @param {Error} error */
const report = (error) => write("error", error.message);

/** One task at a time, in the order in which they came. @type {Promise<unknown>} */
let queue = Promise.resolve();
/** @param {() => unknown} task */
const enqueue = (task) => (queue = queue.then(task).catch(report));

/**
 * Use a model in place of the one before, which stays if the new one is refused.
 *
 * @param {ArrayBuffer} bytes
 * @param {string} name
 */
async function useModel(bytes, name) {
  if (typeof WebAssembly === "undefined") {
    throw new Error("this browser has no WebAssembly, or it is switched off: the model cannot run here");
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
const minScore = () => (element("min-score").validity.valid ? Number(element("min-score").value) : 0);

function applyMinScore() {
  if (!model) return;
  const text = coverageText(model.metadata.certificate.thresholds, minScore());
  write("coverage", element("min-score").validity.valid ? text : "Expected a score from 0 to 1.");
  answers.forEach(refreshRow);
  if (current) view(current);
}

/** @param {Answer} answer */
const refreshRow = (answer) => showRow(answer, minScore(), () => view(answer));

/** @param {Answer} answer */
function view(answer) {
  show(answer, minScore(), threads, answer !== current);
  current = answer;
}

/** @param {Iterable<File>} given images, or a model */
function take(given) {
  const files = [...given];
  write("error", "");
  files.forEach((file, index) =>
    enqueue(async () => {
      if (/\.onnx$/i.test(file.name)) {
        return useModel(await file.arrayBuffer(), file.name);
      }
      if (!model) throw new Error(`${file.name}: there is no model to classify it`);
      const answer = await classify(file, model);
      answers.push(answer);
      element("list").hidden = answers.length < 2;
      refreshRow(answer);
      if (answer.error) throw new Error(`${file.name}: ${answer.error}`);
      if (index === files.length - 1 || !current) view(answer);
      const place = files.length > 1 ? `${index + 1} of ${files.length}: ` : "";
      write("status", `${place}${file.name}: ${answerText(answer, minScore())}`);
      return new Promise((resolve) => setTimeout(resolve)); // the page draws, and listens
    }),
  );
}

/** @param {File} file @param {import("../src/index.js").Model} model @returns {Promise<Answer>} */
async function classify(file, model) {
  try {
    const { pixels, ...place } = await decodeImage(file), started = performance.now();
    const prediction = await model.classify(pixels), milliseconds = performance.now() - started;
    return { file, ...place, prediction, milliseconds, size: model.metadata.preprocessing.size };
  } catch (error) {
    return { file, error: /** @type {Error} */ (error).message };
  }
}

async function verify() {
  if (!model) return;
  write("verified", "Replaying the golden samples.");
  const { passed, samples, difference, tolerance } = await model.verify();
  const result = `${samples.length} golden samples, largest difference of a probability ${difference.toPrecision(1)}`;
  write("verified", `${passed ? "As exported" : "Not as exported"}: ${result}, tolerance ${tolerance} (${model.metadata.precision}).`);
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
  element("viewer").hidden = !open;
  element(open ? "shoot" : "camera").focus();
  if (!open) closeCamera(element("video"));
}


function connect() {
  element("files").onchange = () => {
    take(element("files").files);
    element("files").value = ""; // so that the same file can be chosen again
  };
  element("min-score").oninput = applyMinScore;
  element("show-heat").onchange = () => current && view(current);
  element("verify").onclick = () => enqueue(verify);
  element("csv").onclick = download;
  element("camera").onclick = () => openCamera(element("video")).then(() => showCamera(true), report);
  element("stop").onclick = () => showCamera(false);
  element("shoot").onclick = () =>
    takePhoto(element("video"), `camera ${answers.length + 1}.png`).then((file) => take([file]), report);
  document.onpaste = ({ clipboardData }) => clipboardData?.files.length && take(clipboardData.files);
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      element("drop").classList.toggle("over", type === "dragover");
      const files = /** @type {DragEvent} */ (event).dataTransfer?.files;
      if (type === "drop" && files?.length) take(files);
    });
  }
}

/** Keep the page for offline use, where the browser can. */
async function keepOffline() {
  if (!isSecureContext) {
    element("camera").disabled = true;
    write("note", "This address is plain http: the camera and offline use need https or localhost.");
    return;
  }
  const workers = navigator.serviceWorker;
  const state = workers?.controller ? "A newer version of this page is here: load it again." : "This page works offline now.";
  workers?.addEventListener("controllerchange", () => write("note", state));
  await workers?.register(new URL("../sw.js", import.meta.url));
}

connect();
enqueue(async () => {
  const response = await fetch(new URL("../model.onnx", import.meta.url));
  if (!response.ok) throw new Error(`model.onnx: the server answers ${response.status} ${response.statusText}`);
  await useModel(await response.arrayBuffer(), "model.onnx");
});
enqueue(keepOffline);
