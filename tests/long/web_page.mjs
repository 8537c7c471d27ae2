// Use the page of examples/web in headless Chromium; print what happened as JSON.
//
//   node web_page.mjs FOLDER CHROMIUM SHOTS [gpu | QUERY ...]
//
// FOLDER has the page, its packages and a bundle. Screenshots go to SHOTS. With `gpu`, Chromium gets
// a WebGPU adapter that computes on the CPU. The page is opened with each QUERY, too.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, executablePath, shots, ...queries] = process.argv.slice(2);
const gpu = queries[0] === "gpu";
const { chromium } = createRequire(`${folder}/package.json`)("playwright-core");
const SOFTWARE = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader"];
const TIMEOUT = 300_000;

const server = spawn("node", [`${folder}/serve.js`], { env: { ...process.env, PORT: "0" } });
const address = await new Promise((resolve) => server.stdout.once("data", (data) => resolve(`${data}`.trim())));
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...(gpu ? SOFTWARE : [])] });
const requests = [];

async function opened(query = "", settings = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, ...settings });
  page.setDefaultTimeout(TIMEOUT);
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(address + query);
  await page.waitForFunction(() => !document.getElementById("progress"), null, { timeout: TIMEOUT });
  return page;
}

const told = (page) => page.textContent("#told");
const ended = (page) => page.waitForFunction(
  () => /seed/.test(document.getElementById("told").textContent) || document.getElementById("wrong").textContent,
);

async function write(page, fields) {
  for (const [id, value] of Object.entries(fields)) await page.fill(`#${id}`, `${value}`);
  await page.evaluate(() => (document.getElementById("told").textContent = ""));
  await page.click("#go");
}

/** Return what does not fit, or has no name, at a width; keep a screenshot. */
async function looks(page, width, colorScheme) {
  await page.setViewportSize({ width, height: 844 });
  await page.emulateMedia({ colorScheme });
  await page.screenshot({ path: `${shots}/${width}-${colorScheme}.png`, fullPage: true });
  return page.evaluate(() => ({
    width: document.documentElement.scrollWidth,
    unnamed: [...document.querySelectorAll("input, textarea, output, select")].filter((one) => !one.labels.length).length,
    paper: getComputedStyle(document.body).backgroundColor,
  }));
}

const found = {};
try {
  const page = await opened(gpu ? "?backend=webgpu" : "");
  found.about = await page.textContent("#about");
  await write(page, { maxNewTokens: gpu ? 8 : 100, temperature: gpu ? 0 : 0.8, seed: 1 });
  await ended(page);
  found.text = await page.textContent("#text");
  found.told = await told(page);
  found.wrong = await page.textContent("#wrong");
  if (!gpu) {
    found.looks = {};
    for (const width of [390, 1280]) {
      for (const scheme of ["light", "dark"]) found.looks[`${width} ${scheme}`] = await looks(page, width, scheme);
    }
    await write(page, { maxNewTokens: 100_000 });
    await page.waitForFunction(() => document.getElementById("text").textContent.length > 12);
    await page.click("#halt");
    await ended(page);
    found.halted = await told(page);
    await write(page, { maxNewTokens: 5, prompt: "ROMEO: é" });
    await ended(page);
    found.refused = await page.textContent("#wrong");
    const lost = await opened("?bundle=nowhere");
    found.lost = [await lost.textContent("#about"), await lost.textContent("#wrong")];
    await lost.screenshot({ path: `${shots}/lost.png` });
    const chosen = await opened("?backend=wasm&graph=decoder.ort&threads=2");
    found.asked = await chosen.textContent("#about");
    found.misled = {};
    for (const query of queries) {
      const other = await opened(`?${query}`);
      found.misled[query] = [await other.textContent("#about"), await other.textContent("#wrong")];
      await other.close();
    }
    found.isolated = await page.evaluate(() => crossOriginIsolated);
    const unserved = await browser.newPage();
    await unserved.goto(`${pathToFileURL(folder)}/index.html`);
    await unserved.waitForFunction(() => !document.getElementById("progress"), null, { timeout: TIMEOUT });
    found.unserved = await unserved.textContent("#wrong");
  }
  found.elsewhere = requests.filter((url) => !/^(blob:|data:)/.test(url) && !url.startsWith(address));
} finally {
  await browser.close();
  server.kill();
}
console.log(JSON.stringify(found));
