/**
 * Pictures of the page with an answer in it, at the width of a desktop and of a phone.
 *
 *     node chromium/screenshots.js TASK.json
 *
 * The task has `site` (a folder of `nin-edge web`), `photo`, and `output` (a folder).
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { launch, serve } from "./launch.js";

const WIDTHS = { desktop: { width: 900, height: 860 }, phone: { width: 390, height: 844 } };

const { site, photo, output } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const server = await serve(site);
const browser = await launch();
const made = [];
for (const [name, viewport] of Object.entries(WIDTHS)) {
  const page = await (await browser.newContext({ viewport, colorScheme: "light" })).newPage();
  await page.goto(`http://localhost:${server.port}/`);
  await page.setInputFiles("#files", photo);
  await page.fill("#min-score", "0.9");
  await page.waitForSelector("#result:not([hidden])");
  await page.click("#verify");
  await page.waitForFunction(() =>
    document.querySelector("#verified").textContent.includes("export"),
  );
  await page.waitForFunction(() => document.querySelector("#note").textContent.includes("offline"));
  await page.setInputFiles("#files", photo); // once more: the first was busy with the loading
  await page.waitForFunction(() => document.querySelectorAll("#rows tr:has(td)").length === 2);
  await page.evaluate(() => {
    document.activeElement.blur();
    document.querySelector("#list").hidden = true;
    window.scrollTo(0, 0);
  });
  const path = join(output, `browser-${name}.png`);
  await page.screenshot({ path });
  made.push(path);
}
await browser.close();
await server.close();
console.log(JSON.stringify(made));
