/**
 * Does with the page what a user does, in real Chromium, and prints what came of it as one JSON
 * object; tests/javascript/test_page.py says what should have come.
 *
 *     node chromium/checks.js TASK.json
 *
 * The task has `site` (a folder of `nin-edge web`), `images` (files of the batch), `photo`,
 * `upright` (photos with EXIF rotations), `bad` and `models` (files by name).
 */

import { readFileSync } from "node:fs";
import { ISOLATED, launch, PLAIN_HOST, serve } from "./launch.js";

const task = JSON.parse(readFileSync(process.argv[2], "utf8"));
const found = { errors: [], requests: [] };

/** A new page at an address, watched, once its model is ready or refused. */
async function open(browser, url, { context = {}, before = async () => {} } = {}) {
  const page = await (await browser.newContext(context)).newPage();
  page.on("request", (request) => found.requests.push(request.url()));
  page.on("pageerror", (error) => found.errors.push(String(error)));
  await before(page);
  await page.goto(url);
  await waitFor(
    page,
    () =>
      !document.querySelector("#verify").disabled || document.querySelector("#error").textContent,
  );
  return page;
}

/** Wait for a condition, without asking for a frame each time. */
const waitFor = (page, condition, argument) =>
  page.waitForFunction(condition, argument, { polling: 50 });

const text = (page, id) => page.textContent(`#${id}`);

const rows = (page) => page.locator("#rows tr").count();

/** Wait until the page has answered; gives the error of the last file, if there is one. */
async function answered(page, count) {
  await waitFor(
    page,
    (wanted) => document.querySelectorAll("#rows tr:has(td)").length === wanted,
    count,
  );
  return text(page, "error");
}

/** Choose images as with the file dialogue. */
async function choose(page, ...files) {
  const before = await rows(page);
  await page.setInputFiles("#files", files);
  return answered(page, before + files.length);
}

/** Choose a model; gives the error if it is refused. */
async function chooseModel(page, file) {
  await page.evaluate(() => (document.querySelector("#status").textContent = ""));
  await page.setInputFiles("#files", file);
  await waitFor(
    page,
    () =>
      document.querySelector("#status").textContent || document.querySelector("#error").textContent,
  );
  return text(page, "error");
}

const probabilities = (page, count) =>
  page.evaluate(async (last) => {
    const { answers } = await import("./page/app.js");
    return answers
      .slice(-last)
      .map(({ prediction }) => prediction && [...prediction.probabilities]);
  }, count);

async function verify(page) {
  await page.click("#verify");
  await waitFor(page, () => document.querySelector("#verified").textContent.includes("exported"));
  return text(page, "verified");
}

/** What Tab reaches from the top, and what the keyboard opens there. */
async function keyboard(page) {
  page.on("filechooser", () => {}); // from now on, or the first key could come too early
  const reached = [];
  for (let step = 0; step < 3; step++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id));
  }
  await page.focus("#files");
  const [chooser] = await Promise.all([
    page.waitForEvent("filechooser"),
    page.keyboard.press("Space"),
  ]);
  const before = await rows(page);
  await chooser.setFiles([task.photo, task.photo]);
  await answered(page, before + 2);
  await page.locator("#rows button").first().focus();
  await page.keyboard.press("Enter");
  const current = await page.locator("#rows tr").first().getAttribute("aria-current");
  return { reached, several: chooser.isMultiple(), current };
}

async function batch(page) {
  const error = await choose(page, ...task.images);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#csv")]);
  return {
    error,
    status: await text(page, "status"),
    probabilities: await probabilities(page, task.images.length),
    csv: readFileSync(await download.path(), "utf8"),
    name: download.suggestedFilename(),
  };
}

async function minScore(page) {
  const given = {};
  for (const value of ["0.9", "0.755", "0.1", "1", "2", "0"]) {
    await page.fill("#min-score", value);
    given[value] = { coverage: await text(page, "coverage"), answer: await text(page, "answer") };
  }
  return given;
}

async function photo(page) {
  await choose(page, task.photo);
  const shares = await page.evaluate(() => {
    const [image, heat] = ["image", "heat"].map((id) =>
      document.getElementById(id).getBoundingClientRect(),
    );
    return [
      (heat.left - image.left) / image.width,
      (heat.top - image.top) / image.height,
      heat.width / image.width,
      heat.height / image.height,
    ];
  });
  const opacity = await page.evaluate(() => {
    const heat = document.getElementById("heat");
    const { data } = heat.getContext("2d").getImageData(0, 0, heat.width, heat.height);
    return Array.from({ length: data.length / 4 }, (_, at) => data[4 * at + 3]);
  });
  return {
    answer: await text(page, "answer"),
    latency: await text(page, "latency"),
    bars: await page.locator("#bars li").allTextContents(),
    probabilities: (await probabilities(page, 1))[0],
    shares,
    opacity,
    status: await text(page, "status"),
  };
}

/** Hand a file to the page by an event, as pasting and dropping do. */
async function hand(page, type) {
  const before = await rows(page);
  const data = readFileSync(task.photo).toString("base64");
  await page.evaluate(
    ([type, data]) => {
      const transfer = new DataTransfer();
      transfer.items.add(
        new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], `${type}.jpg`),
      );
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(
        type === "paste"
          ? new ClipboardEvent(type, { ...options, clipboardData: transfer })
          : new DragEvent(type, { ...options, dataTransfer: transfer }),
      );
    },
    [type, data],
  );
  await answered(page, before + 1);
  return text(page, "status");
}

async function useCamera(page) {
  await page.click("#camera");
  await page.waitForSelector("#viewer:not([hidden])");
  const focus = await page.evaluate(() => document.activeElement.id);
  await page.click("#shoot");
  await waitFor(page, () => document.querySelector("#status").textContent.includes("camera"));
  const status = await text(page, "status");
  await page.click("#stop");
  const live = await page.evaluate(() => document.getElementById("video").srcObject !== null);
  return { focus, status, live, back: await page.evaluate(() => document.activeElement.id) };
}

async function refusedCamera(page) {
  await page.click("#camera");
  await waitFor(page, () => document.querySelector("#error").textContent);
  return text(page, "error");
}

// The page as a phone gets it from a computer beside it: plain http, so neither crypto.subtle nor a
// camera nor service workers, and one thread.
const server = await serve(task.site);
const browser = await launch(["--use-fake-device-for-media-stream"]);
const phone = { viewport: { width: 360, height: 740 } };
const plain = await open(browser, `http://${PLAIN_HOST}:${server.port}/`, { context: phone });
found.plain = {
  secure: await plain.evaluate(
    () => isSecureContext || "subtle" in crypto || "serviceWorker" in navigator,
  ),
  note: await text(plain, "note"),
  camera: await plain.isDisabled("#camera"),
  keyboard: await keyboard(plain),
  accessible: await plain.locator("body").ariaSnapshot(),
  verified: await verify(plain),
  batch: await batch(plain),
  ...(await photo(plain)),
  overflow: await plain.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  ),
};
await plain.context().close();
await server.close();

// The page as it can be: a secure context, cross-origin isolated.
const isolated = await serve(task.site, ISOLATED);
const page = await open(browser, `http://localhost:${isolated.port}/`);
found.facts = await text(page, "facts");
found.verified = await verify(page);
found.photo = await photo(page);
found.processors = await page.evaluate(() => navigator.hardwareConcurrency);
found.minScore = await minScore(page);
await choose(page, ...task.upright);
found.upright = await probabilities(page, task.upright.length);
found.paste = await hand(page, "paste");
found.drop = await hand(page, "drop");
found.refused = await refusedCamera(page);
found.bad = {};
for (const [name, file] of Object.entries(task.bad)) {
  found.bad[name] = await (name.endsWith(".onnx") ? chooseModel : choose)(page, file);
}
found.after = (await choose(page, task.photo)) || (await text(page, "answer"));
await page.context().grantPermissions(["camera"]);
found.camera = await useCamera(page);
found.models = {};
for (const [name, file] of Object.entries(task.models)) {
  found.models[name] = (await chooseModel(page, file)) || (await verify(page));
}

// Without the server, after the service worker has everything.
await waitFor(page, () => document.querySelector("#note").textContent.includes("offline"));
await isolated.close();
await page.reload();
await waitFor(page, () => !document.querySelector("#verify").disabled);
await choose(page, task.photo);
found.offline = await text(page, "answer");
await browser.close();

// Neither a model, nor WebAssembly, nor a camera.
const poor = await serve(task.site);
const bare = await launch(["--use-fake-device-for-media-stream=device-count=0"]);
const without = await open(bare, `http://localhost:${poor.port}/`, {
  context: { serviceWorkers: "block" },
  before: async (page) => {
    await page.addInitScript(() => delete globalThis.WebAssembly);
    await page.route("**/model.onnx", (route) => route.fulfill({ status: 404 }));
  },
});
found.noModel = await text(without, "error");
found.noWebAssembly = await chooseModel(without, Object.values(task.models)[0]);
found.noAnswer = await choose(without, task.photo);
await without.evaluate(() => (document.querySelector("#error").textContent = ""));
found.noCamera = await refusedCamera(without);
await bare.close();
await poor.close();
console.log(JSON.stringify(found));
