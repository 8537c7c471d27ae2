// Run an edgegpt bundle in a browser:
//
//   import { load } from "./edgegpt.js";
//   const lm = await load("bundle/");
//   for await (const piece of lm.stream("ROMEO:", { maxNewTokens: 200, temperature: 0.8, seed: 1 })) show(piece);

import { chooseBackend, Engine, setThreads } from "./edgegpt/engine.js";
import { BundleError, EngineError, InvalidInputError } from "./edgegpt/errors.js";
import { checkIds, rulesOf, Stream } from "./edgegpt/generate.js";
import { graphFor, MANIFEST_NAME, readManifest, TOKENIZER_NAME } from "./edgegpt/manifest.js";
import { Tokenizer } from "./edgegpt/text.js";

export { BundleError, EdgeGPTError, EngineError, InvalidInputError, NumericalError } from "./edgegpt/errors.js";

// That without WebGPU is half as large.
const RUNTIMES = { wasm: () => import("onnxruntime-web"), webgpu: () => import("onnxruntime-web/webgpu") };

/**
 * Open a bundle.
 *
 * @param {string | URL | ((name: string) => Promise<Uint8Array>)} bundle the address of its folder,
 *   or a function that gives the bytes of a file in it
 * @param {object} [options]
 * @param {"auto" | "wasm" | "webgpu"} [options.backend] auto: WebGPU where it suits the bundle
 * @param {number} [options.context] tokens that the model sees at once; default: all that it can
 * @param {string} [options.graph] the graph to run; default: the one that is fast on the backend
 * @param {number} [options.threads] of wasm, fixed by the first bundle that a page opens; more than
 *   one needs a page that is cross-origin isolated
 * @param {(done: number, total: number) => void} [options.progress] is told how many bytes are there
 * @returns {Promise<LanguageModel>}
 * @throws {BundleError} if a file is missing, damaged, or of another format version
 * @throws {EngineError} if a package is missing, or the backend does not run
 */
export async function load(bundle, { backend: wanted = "auto", context, graph: name, threads, progress } = {}) {
  const read = reader(bundle);
  const manifest = readManifest(asText(await read(MANIFEST_NAME)));
  if (!Object.hasOwn(manifest.files, TOKENIZER_NAME)) {
    throw new BundleError("this bundle has no tokenizer, so it has no text to write");
  }
  const seen = contextOf(context, manifest.model.block_size);
  const { backend, why } = await chooseBackend(wanted, manifest.precision);
  const graph = graphFor(manifest, backend, name);
  const [ort, { Tokenizer: Backend }] = await Promise.all([
    packageOf("onnxruntime-web", RUNTIMES[backend]),
    packageOf("@huggingface/tokenizers", () => import("@huggingface/tokenizers")),
  ]);
  if (threads !== undefined) setThreads(ort, threads);
  const files = await readAll(read, manifest, [TOKENIZER_NAME, graph.file, manifest.weights_file], progress);
  const tokenizer = new Tokenizer(Backend, asText(files[TOKENIZER_NAME]), manifest.model.vocab_size);
  const weights = { path: manifest.weights_file, data: files[manifest.weights_file] };
  const engine = await Engine.open(ort, graph, backend, files[graph.file], weights);
  return new LanguageModel(manifest, engine, tokenizer, seen, why);
}

/**
 * An open bundle. Beside its methods it tells which `backend` runs its `graph`, and `why`; the
 * `threads` of wasm, the `precision`, the `vocabSize`, and how many tokens it sees, its `context`.
 */
class LanguageModel {
  #engine;
  #tokenizer;
  #usage;
  #reach;

  constructor(manifest, engine, tokenizer, context, why) {
    this.backend = engine.backend;
    this.why = why;
    this.graph = engine.graph.name;
    this.threads = engine.threads;
    this.precision = manifest.precision;
    this.vocabSize = manifest.model.vocab_size;
    this.position = manifest.model.position;
    this.context = context;
    this.#usage = manifest.usage;
    this.#engine = engine;
    this.#tokenizer = tokenizer;
    this.#reach = tokenizer.reach;
  }

  /**
   * Continue a prompt; iterate over the pieces of text. Arguments are checked at once.
   *
   * @param {string | number[]} prompt text, or ids as they are
   * @param {object} [options] as in Python, in camelCase; a setting that is left out is the bundle's
   * @param {number} [options.maxNewTokens] default: 200
   * @param {number} [options.temperature] 0, the default, takes the most likely token each time
   * @param {number} [options.topK] 0, the default: among all tokens
   * @param {number} [options.topP] default: 1
   * @param {number} [options.minP] default: 0
   * @param {number} [options.repetitionPenalty] default: 1
   * @param {number | bigint} [options.seed] the same seed gives the same text as in Python
   * @param {string | string[]} [options.stop] ends the text as soon as it is complete
   * @param {number | number[]} [options.endIds] ids that end the text; default: the bundle's
   * @param {boolean} [options.ignoreEos] go on after the bundle's end ids
   * @param {"slide" | "stop"} [options.overflow] when the text outgrows the context
   * @param {AbortSignal} [options.signal] ends the text before its next token
   * @returns {Stream} with a `result` at its end
   * @throws {InvalidInputError} for an impossible prompt or setting
   */
  stream(prompt, options = {}) {
    const { vocabSize, context, position } = this;
    const model = { vocabSize, context, position, usage: this.#usage, reach: this.#reach };
    return new Stream(this.#engine, this.#tokenizer, this.encode(prompt), rulesOf(options, model));
  }

  /** Continue a prompt; return the result, see `Stream`. */
  async generate(prompt, options = {}) {
    const stream = this.stream(prompt, options);
    for await (const _ of stream);
    return stream.result;
  }

  /** Return the ids that the model gets for a prompt; an empty or impossible one is refused. */
  encode(prompt) {
    let ids = prompt;
    if (typeof prompt === "string") {
      const start = this.#usage?.start_ids ?? [];
      ids = this.#tokenizer.encode(prompt);
      if (start.some((id, place) => ids[place] !== id)) ids = [...start, ...ids];
    } else if (!Array.isArray(prompt)) {
      throw new InvalidInputError("a prompt is text or a list of token ids");
    }
    if (!ids.length) throw new InvalidInputError("the prompt is empty; the model needs at least one token");
    checkIds(ids, this.vocabSize);
    return ids;
  }

  /** Free the model; nothing can be written with it any more. */
  async close() {
    await this.#engine.close();
  }
}

function contextOf(wanted, most) {
  if (wanted === undefined) return most;
  if (!Number.isSafeInteger(wanted) || wanted < 1 || wanted > most) {
    throw new InvalidInputError(`context is ${wanted}; the model can see 1 to ${most} tokens`);
  }
  return wanted;
}

/** Return a function that gives the bytes of a file, and tells how many of them are there. */
function reader(bundle) {
  if (typeof bundle === "function") return async (name) => bundle(name);
  const folder = addressOf(`${bundle}`);
  return async (name, tell) => {
    const address = new URL(name, folder);
    let response;
    try {
      response = await fetch(address);
    } catch (error) {
      throw new BundleError(
        `${address} cannot be fetched (${error.message}): is it served, and may this page fetch from there?`,
      );
    }
    if (response.ok) return bytesOf(response, tell);
    const remedy = name === MANIFEST_NAME ? ": `edgegpt export SRC --target web --out FOLDER` makes one" : "";
    throw new BundleError(`${name} is missing from the bundle ${folder} (HTTP ${response.status})${remedy}`);
  };
}

function addressOf(bundle) {
  try {
    return new URL(bundle.replace(/\/?$/, "/"), globalThis.document?.baseURI);
  } catch {
    throw new BundleError(`${JSON.stringify(bundle)} is no address of a bundle: give that of its folder`);
  }
}

async function bytesOf(response, tell) {
  if (!tell) return new Uint8Array(await response.arrayBuffer());
  const parts = [];
  for (const stream = response.body.getReader(); ;) {
    const { done, value } = await stream.read();
    if (done) break;
    parts.push(value);
    tell(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Return files of a bundle by name, whose sizes are those of the manifest. */
async function readAll(read, manifest, names, progress) {
  const total = names.reduce((sum, name) => sum + manifest.files[name].size, 0);
  let there = 0;
  const tell = progress && ((count) => progress((there += count), total));
  const files = await Promise.all(
    names.map(async (name) => {
      const bytes = await read(name, tell);
      const { size } = manifest.files[name];
      if (bytes.length !== size) {
        throw new BundleError(
          `${name} has ${bytes.length} bytes, the manifest says ${size}: it was cut off or replaced`,
        );
      }
      return [name, bytes];
    }),
  );
  return Object.fromEntries(files);
}

const asText = (bytes) => new TextDecoder().decode(bytes);

async function packageOf(name, found) {
  try {
    return await found();
  } catch (error) {
    throw new EngineError(`the package ${name} cannot be loaded: ${error.message}; run npm install`);
  }
}
