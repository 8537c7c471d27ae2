// Tokens per second of bundles in wasm, greedy, side by side in one run, in node or in Chromium:
//
//   [THREADS=1] [ROUNDS=5] [TOKENS=120] [CHROMIUM=PATH] node benchmarks/web.mjs BUNDLE[:GRAPH] ...
//
// Every round writes one text with each. The table has medians over the rounds, and of the ratios to
// the first one within a round, by the clock and by the processor's time; other programs disturb the
// latter less, and with one thread it is what counts. The packages of examples/web must be installed
// (`npm ci` there).

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const setting = (name, usual) => Number(process.env[name] ?? usual);
const [THREADS, ROUNDS, TOKENS] = [setting("THREADS", 1), setting("ROUNDS", 5), setting("TOKENS", 120)];
const PROMPT = "ROMEO:";
const OPTIONS = { maxNewTokens: TOKENS, temperature: 0, ignoreEos: true };
const WEB = fileURLToPath(new URL("../examples/web", import.meta.url));

/** Return what opens a bundle in node, and what closes node. */
async function inNode() {
  const { load } = await import("../examples/web/edgegpt.js");
  const cpu = () => process.cpuUsage().user / 1e6 + process.cpuUsage().system / 1e6;
  const open = async (folder, options) => {
    const lm = await load(async (file) => new Uint8Array(await readFile(join(folder, file))), options);
    return { about: lm, cpu, write: async () => void (await lm.generate(PROMPT, OPTIONS)) };
  };
  return { open, close() {} };
}

/** The same in the page of examples/web, served as it is, but for the bundles, which lie elsewhere. */
async function inChromium(executablePath) {
  const { chromium } = createRequire(join(WEB, "package.json"))("playwright-core");
  const server = spawn("node", [join(WEB, "serve.js")], { env: { ...process.env, PORT: "0" } });
  const address = await new Promise((resolve) => server.stdout.once("data", (data) => resolve(`${data}`.trim())));
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const [page, system] = [await browser.newPage(), await browser.newBrowserCDPSession()];
  await page.goto(`${address}?bundle=none`);
  await page.waitForFunction(() => !document.getElementById("progress"));
  await page.evaluate(() => (window.models = []));
  const cpu = async () => {
    const { processInfo } = await system.send("SystemInfo.getProcessInfo");
    return processInfo.filter(({ type }) => type === "renderer").reduce((sum, { cpuTime }) => sum + cpuTime, 0);
  };
  let count = 0;
  const open = async (folder, options) => {
    const path = `bundles/${count++}/`;
    await page.route(`${address}${path}*`, (route) => route.fulfill({ path: join(folder, basename(route.request().url())) }));
    const about = await page.evaluate(async ([from, how]) => {
      const { load } = await import("/edgegpt.js");
      const lm = await load(from, how);
      return { ...lm, place: window.models.push(lm) - 1 };
    }, [path, options]);
    const write = () => page.evaluate(
      async ([place, prompt, how]) => void (await window.models[place].generate(prompt, how)),
      [about.place, PROMPT, OPTIONS],
    );
    return { about, cpu, write };
  };
  return { open, close: () => browser.close().finally(() => server.kill()) };
}

/** Return tokens per second of one text, by the clock and by the processor's time. */
async function rates({ write, cpu }) {
  const [used, begin] = [await cpu(), performance.now()];
  await write();
  const seconds = (performance.now() - begin) / 1e3;
  return { clock: TOKENS / seconds, cpu: TOKENS / ((await cpu()) - used) };
}

const middle = (values) => values.toSorted((one, other) => one - other)[values.length >> 1];

/** Return a cell of a median and one of the ratios to `first` within a round, with their spread. */
function cells(values, first) {
  const ratios = values.map((value, round) => value / first[round]);
  const [ratio, least, most] = [middle(ratios), Math.min(...ratios), Math.max(...ratios)].map((one) => one.toFixed(2));
  return `${middle(values).toFixed(0)} | ${ratio} (${least} - ${most})`;
}

const place = await (process.env.CHROMIUM ? inChromium(process.env.CHROMIUM) : inNode());
try {
  const contestants = [];
  for (const name of process.argv.slice(2)) {
    const [folder, graph] = name.split(":");
    const one = await place.open(folder, { backend: "wasm", threads: THREADS, graph });
    contestants.push({ ...one, name: `${basename(folder)}: ${one.about.graph}`, clock: [], cpuTime: [] });
  }
  for (let round = 0; round <= ROUNDS; round++) {
    for (const one of contestants) {
      const { clock, cpu } = await rates(one);
      if (!round) continue; // the first one warms up
      one.clock.push(clock);
      one.cpuTime.push(cpu);
    }
  }
  console.log("| bundle: graph | tokens/s | ratio (smallest - largest) | per second of CPU | ratio |\n|---|---|---|---|---|");
  for (const { name, clock, cpuTime } of contestants) {
    console.log(`| ${name} | ${cells(clock, contestants[0].clock)} | ${cells(cpuTime, contestants[0].cpuTime)} |`);
  }
} finally {
  await place.close();
}
process.exit(0); // ONNX Runtime's workers would keep the process alive
