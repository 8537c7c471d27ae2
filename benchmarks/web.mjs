// Tokens per second of bundles in node's wasm, one thread, greedy, side by side in one run:
//
//   node benchmarks/web.mjs BUNDLE[:GRAPH] ...
//
// Every round writes one text with each; the table has medians, and ratios to the first within a
// round. The packages of examples/web must be installed (`npm ci` there).

import { readFile } from "node:fs/promises";
import { load } from "../examples/web/edgegpt.js";

const ROUNDS = 7, TOKENS = 120, PROMPT = "ROMEO:";

const middle = (values) => values.toSorted((one, other) => one - other)[values.length >> 1];

const contestants = [];
for (const name of process.argv.slice(2)) {
  const [folder, graph] = name.split(":");
  const read = async (file) => new Uint8Array(await readFile(`${folder}/${file}`));
  const lm = await load(read, { backend: "wasm", threads: 1, graph });
  contestants.push({ name: `${folder.split("/").at(-1)}: ${lm.graph}`, lm, rates: [] });
}
for (let round = 0; round <= ROUNDS; round++) {
  for (const { lm, rates } of contestants) {
    const { tokensPerSecond } = await lm.generate(PROMPT, { maxNewTokens: TOKENS, ignoreEos: true });
    if (round) rates.push(tokensPerSecond); // the first one warms up
  }
}
console.log("| bundle: graph | tokens/s | ratio (smallest - largest) |\n|---|---|---|");
for (const { name, rates } of contestants) {
  const ratios = rates.map((rate, round) => rate / contestants[0].rates[round]);
  const [ratio, least, most] = [middle(ratios), Math.min(...ratios), Math.max(...ratios)].map((one) => one.toFixed(2));
  console.log(`| ${name} | ${middle(rates).toFixed(0)} | ${ratio} (${least} - ${most}) |`);
}
process.exit(0); // ONNX Runtime's workers would keep the process alive
