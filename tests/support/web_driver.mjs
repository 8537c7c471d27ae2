// Does what tests in Python ask of examples/web: jobs as JSON on stdin, their results on stdout.
// The first argument is the folder of the module.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const part = (name) => import(new URL(name, folder));
const { philox4x32, gumbel, seriesOf, words } = await part("edgegpt/philox.js");
const { choose, samplingOf } = await part("edgegpt/sampling.js");
const { readManifest, graphFor } = await part("edgegpt/manifest.js");
const { rulesOf, Stream } = await part("edgegpt/generate.js");
const { Detokenizer, Tokenizer } = await part("edgegpt/text.js");
const { load } = await part("edgegpt.js");

const seeded = ({ seed, series, ...rest }) => ({ seed: words(BigInt(seed)), series: words(BigInt(series)), ...rest });
const given = ({ seed, ...options }) => (seed === undefined ? options : { ...options, seed: BigInt(seed) });
const numbers = (values) => Float32Array.from(values, Number); // JSON has no infinity: "-Infinity"

/** In place of @huggingface/tokenizers: one id for each character. */
class Characters {
  constructor({ model }) {
    this.model = {};
    this.ids = new Map(Object.entries(model.vocab));
    this.names = new Map([...this.ids].map(([name, id]) => [id, name]));
  }
  encode(text) {
    return { ids: [...text].map((one) => this.ids.get(one)), tokens: [...text] };
  }
  decode = (ids) => ids.map((id) => this.names.get(id)).join("");
  id_to_token = (id) => this.names.get(id);
  get_vocab = () => this.ids;
  get_added_tokens_decoder = () => new Map();
}

/** In place of ONNX Runtime: a cache of ids, and logits that depend on all ids that are visible. */
class Engine {
  constructor(vocabSize) {
    this.vocabSize = vocabSize;
  }
  newState(slots) {
    const cache = new Array(slots).fill(-1);
    const step = async (ids, past) => {
      if (past + ids.length > slots) throw new Error("the cache is full");
      cache.splice(past, ids.length, ...ids);
      const seen = cache.slice(0, past + ids.length);
      const key = [seen.reduce((sum, id, place) => sum + (id + 1) * (place + 1), 0), seen.length];
      return Float32Array.from({ length: this.vocabSize }, (_, id) => (philox4x32([id, 0, 0, 0], key)[0] / 2 ** 32) * 6);
    };
    return { step, close() {} };
  }
}

async function written(stream, { breakAfter, abort }) {
  const pieces = [];
  for await (const piece of stream) {
    pieces.push(piece);
    if (pieces.length === breakAfter) {
      if (!abort) break;
      abort.abort();
    }
  }
  const { text, tokenIds, finishReason } = stream.result;
  return { pieces, text, tokenIds, finishReason };
}

/** Return a tokenizer on the package, which is looked for from the module on. */
function packaged(json, rows) {
  const { Tokenizer: Backend } = createRequire(new URL("edgegpt.js", folder))("@huggingface/tokenizers");
  return new Tokenizer(Backend, json, rows);
}

const open = new Map();

/** Return the model of a folder or an address, opened once. */
async function model({ bundle, options = {} }) {
  const key = JSON.stringify([bundle, options]);
  const source = bundle.startsWith("http") ? bundle : (name) => readFile(`${bundle}/${name}`).then((bytes) => new Uint8Array(bytes));
  if (!open.has(key)) open.set(key, await load(source, { threads: 1, ...options }));
  return open.get(key);
}

const JOBS = {
  philox: ({ counter, key }) => philox4x32(counter, key),
  gumbel: ({ id, step, ...draw }) => gumbel(seeded(draw).seed, seeded(draw).series, step, id),
  series: ({ ids }) => seriesOf(ids),
  choose: ({ logits, sampling, history, draw, named }) =>
    choose(numbers(logits), samplingOf(sampling), history, seeded(draw), named ?? undefined),
  manifest: ({ text, backend, name }) => graphFor(readManifest(text), backend, name).name,
  write: ({ tokenizer, facts, prompt, options, breakAfter, abort: aborts }) => {
    const own = new Tokenizer(Characters, tokenizer, facts.vocabSize);
    const abort = aborts ? new AbortController() : undefined;
    const rules = rulesOf({ ...given(options), signal: abort?.signal }, { ...facts, reach: own.reach });
    return written(new Stream(new Engine(facts.vocabSize), own, own.encode(prompt), rules), { breakAfter, abort });
  },
  generate: async ({ prompt, settings, ...of }) => written((await model(of)).stream(prompt, given(settings)), {}),
  together: async ({ prompt, all, ...of }) => {
    const lm = await model(of);
    return Promise.all(all.map((settings) => written(lm.stream(prompt, given(settings)), {})));
  },
  about: async (of) => ({ ...(await model(of)) }),
  encode: ({ tokenizer, rows, text }) => packaged(tokenizer, rows).encode(text),
  detokenize: ({ tokenizer, rows, before, ids, stop }) => {
    const one = new Detokenizer(packaged(tokenizer, rows), stop, before);
    const pieces = [];
    for (const id of ids) {
      pieces.push(one.push(id));
      if (one.stopped) break;
    }
    return [...pieces, one.finish()];
  },
  closed: async ({ prompt, ...of }) => {
    const lm = await model(of);
    await lm.close();
    return lm.generate(prompt);
  },
};

let input = "";
for await (const chunk of process.stdin) input += chunk;
const results = [];
for (const { job, ...of } of JSON.parse(input)) {
  try {
    results.push({ value: await JOBS[job](of) });
  } catch (error) {
    results.push({ error: error.name, message: error.message });
  }
}
process.stdout.write(JSON.stringify(results), () => process.exit(0));
