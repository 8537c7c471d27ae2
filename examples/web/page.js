// The page: open the bundle, write what is asked for, show how fast. Its address may name what to
// open and how: ?bundle=, backend=, graph=, threads= (see `load`); what is empty is not asked for.

import { load } from "./edgegpt.js";

const ENDS = {
  length: "that is all that was asked for",
  stop: "it came to the stop text",
  eos: "the model ended it",
  context: "the context is full",
  closed: "stopped",
};
const part = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
let halt = null; // stops the text that is being written

/** Return the settings in the form; an empty field leaves the choice to the bundle. */
function settings() {
  const found = {};
  for (const name of ["maxNewTokens", "temperature", "topK", "topP"]) {
    if (part(name).value !== "") found[name] = Number(part(name).value);
  }
  const seed = part("seed").value.trim();
  if (/^\d+$/.test(seed)) found.seed = BigInt(seed);
  else if (seed) throw new Error(`the seed ${seed} is no whole number of 0 or more`);
  if (part("stop").value) found.stop = part("stop").value.replaceAll("\\n", "\n");
  return found;
}

/** Write one text into the page. */
async function write(lm) {
  halt = new AbortController();
  const stream = lm.stream(part("prompt").value, { ...settings(), signal: halt.signal });
  const begin = performance.now();
  const prompt = document.createElement("b");
  prompt.textContent = part("prompt").value;
  part("text").replaceChildren(prompt, document.createTextNode(""));
  let told = begin;
  for await (const piece of stream) {
    part("text").lastChild.data += piece;
    const now = performance.now();
    if (now - told > 250) {
      told = now;
      part("told").textContent = `${stream.newTokens} tokens, ${rate(stream.newTokens / ((now - begin) / 1000))}`;
    }
  }
  const { tokenIds, tokensPerSecond, firstTokenSeconds, finishReason, seed } = stream.result;
  part("told").textContent =
    `${tokenIds.length} tokens, ${rate(tokensPerSecond)}, the first after ` +
    `${Math.round(firstTokenSeconds * 1000)} ms; ${ENDS[finishReason]}; seed ${seed}`;
}

/** Return the number that a text is, else the text itself, which `load` will refuse. */
const numberIn = (text) => (/^\d+$/.test(text) ? Number(text) : text || undefined);

function threadsOf({ threads }) {
  if (threads !== 1) return `, ${threads} threads`;
  return self.crossOriginIsolated ? ", 1 thread" : ", 1 thread, since the page is not cross-origin isolated";
}

const rate = (perSecond) => `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} tokens/s`;

/** Run `work`; show its error as a sentence. */
async function guarded(work) {
  part("wrong").textContent = "";
  try {
    await work();
  } catch (error) {
    part("wrong").textContent = error.message;
    console.error(error);
  }
}

function busy(writing) {
  part("go").disabled = writing;
  part("halt").disabled = !writing;
}

part("halt").addEventListener("click", () => halt?.abort());
await guarded(async () => {
  const lm = await load(asked.get("bundle") || "bundle/", {
    backend: asked.get("backend") || undefined,
    graph: asked.get("graph") || undefined,
    threads: numberIn(asked.get("threads")),
    progress: (done, total) => Object.assign(part("progress"), { value: done, max: total }),
  });
  part("about").textContent =
    `${lm.graph} in ${lm.precision} runs on ${lm.backend} (${lm.why})${lm.backend === "wasm" ? threadsOf(lm) : ""}`;
  busy(false);
  part("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    busy(true);
    await guarded(() => write(lm));
    busy(false);
  });
});
part("progress").remove();
if (part("wrong").textContent) part("about").textContent = "The bundle did not open.";
