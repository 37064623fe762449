/**
 * Loads the page several times, each time with nothing cached, and prints how long the first answer
 * took; then classifies images with the last one and prints what came, as one JSON object.
 *
 *     node chromium/classify.js TASK.json
 *
 * The task has `site` (a folder of `nin-edge web`), `images` (files) and `rounds`.
 */

import { readFileSync } from "node:fs";
import { launch, serve } from "./launch.js";

const { site, images, rounds } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const server = await serve(site);
const browser = await launch();
const found = { version: browser.version(), first: [] };
for (let round = 1; round <= rounds; round++) {
  const page = await (await browser.newContext()).newPage();
  await page.goto(`http://localhost:${server.port}/`, { waitUntil: "commit" });
  const first = page.waitForFunction(
    () => document.querySelector("#answer")?.textContent && performance.now(), // since navigation
    null,
    { polling: 5 },
  );
  // Chosen at once: the page classifies it as soon as it can.
  await page.waitForLoadState("domcontentloaded");
  await page.setInputFiles("#files", images[0]);
  found.first.push(await (await first).jsonValue());
  if (round === rounds) {
    await page.setInputFiles("#files", images);
    await page.waitForFunction(
      (count) => document.querySelectorAll("#rows tr:has(td)").length === count,
      images.length + 1,
      { polling: 50 },
    );
    const answers = await page.evaluate(async () => {
      const { answers } = await import("./page/app.js");
      return answers.slice(1).map(({ prediction, milliseconds }) => ({
        label: prediction.label,
        probabilities: [...prediction.probabilities],
        map: [...prediction.classMap.data],
        milliseconds,
      }));
    });
    Object.assign(found, { answers });
  }
  await page.context().close();
}
await browser.close();
await server.close();
console.log(JSON.stringify(found));
