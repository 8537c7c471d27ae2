// Read edgegpt.json, a bundle's table of contents, and choose the graph that runs in a browser.

import { BundleError, InvalidInputError } from "./errors.js";

export const MANIFEST_NAME = "edgegpt.json";
export const TOKENIZER_NAME = "tokenizer.json";

const FORMAT_VERSION = 5;
const PLAIN_PATH = /^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/; // so that no name leads to another place
const POSITIONS = ["learned", "sinusoidal", "rope", "relative", "none"];
const FED = ["ids", "past_len", "logit_positions", "cache", "seqlens_k", "total_sequence_length", "position_ids"];
const SIZES = ["batch", "new_tokens", "logit_positions", "context"]; // of what is fed, by name
const DTYPES = ["float32", "float16", "int64", "int32"];

/**
 * Read and check the text of edgegpt.json.
 *
 * @returns {object} its content
 * @throws {BundleError} if it is damaged, of another format version, or does not run here
 */
export function readManifest(text) {
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    throw new BundleError(`${MANIFEST_NAME} is not JSON: ${error.message}`);
  }
  require(isTable(manifest), "is not a JSON object");
  if (manifest.format_version !== FORMAT_VERSION) {
    throw new BundleError(
      `${MANIFEST_NAME} has format version ${JSON.stringify(manifest.format_version)}; ` +
        `this page reads ${FORMAT_VERSION}: export the model again, or take the page of that edgegpt`,
    );
  }
  require(isTable(manifest.model), "lacks the table model");
  if (manifest.model.encoder) {
    throw new BundleError(
      "this bundle is an encoder-decoder, a translator, which does not run in the browser yet; " +
        "use `edgegpt translate`, or the bundle of a GPT",
    );
  }
  checkModel(manifest.model);
  checkFiles(manifest);
  checkUsage(manifest.usage);
  require(Array.isArray(manifest.graphs) && manifest.graphs.length, "lists no graph");
  for (const graph of manifest.graphs) checkGraph(graph, manifest.files);
  return manifest;
}

/**
 * Return the graph that generates fastest on a backend.
 *
 * @param {object} manifest what `readManifest` returned
 * @param {"wasm" | "webgpu"} backend
 * @param {string} [name] the graph that the caller wants instead
 */
export function graphFor(manifest, backend, name) {
  const { graphs } = manifest;
  const names = name === undefined ? PREFERRED[backend] : [name];
  const graph = names.map((one) => graphs.find((each) => each.name === one)).find(Boolean);
  const there = graphs.map((each) => each.name).join(", ");
  if (!graph && name !== undefined) {
    throw new InvalidInputError(`the bundle has no graph ${JSON.stringify(name)}; it has: ${there}`);
  }
  if (!graph) {
    throw new BundleError(`none of the graphs ${there} runs in a browser: export with --target web`);
  }
  const odd = [...graph.inputs, ...graph.outputs].find((port) => !DTYPES.includes(port.dtype));
  if (odd) throw new BundleError(`${graph.name} is in ${odd.dtype}, which no browser computes`);
  return graph;
}

// Best first. Without WebGPU, the kernels of quantised blocks are slow: see README.md.
const PREFERRED = {
  wasm: ["prefill.ort", "decoder.ort", "decoder.standard", "decoder.legacy"],
  webgpu: ["decoder.ort", "decoder.standard", "decoder.legacy"],
};

function checkModel(model) {
  for (const key of ["vocab_size", "block_size", "n_layer", "n_kv_head", "head_dim"]) {
    require(Number.isSafeInteger(model[key]) && model[key] > 0, `: model: ${key} is no whole number of 1 or more`);
  }
  require(POSITIONS.includes(model.position), `: model: position is ${model.position}; there are: ${POSITIONS.join(", ")}`);
}

function checkFiles({ files, weights_file: weights }) {
  require(isTable(files), "lacks the table files");
  for (const [name, entry] of Object.entries(files)) {
    require(PLAIN_PATH.test(name), `names the file ${JSON.stringify(name)}, which is no plain path`);
    require(Number.isSafeInteger(entry?.size) && entry.size >= 0, `: files: ${name} has no size`);
  }
  require(Object.hasOwn(files, weights), `uses ${weights}, which its table of files lacks`);
}

function checkUsage(usage) {
  if (usage === null || usage === undefined) return;
  for (const key of ["start_ids", "end_ids"]) {
    const ids = usage[key];
    require(Array.isArray(ids) && ids.every(Number.isSafeInteger), `: usage: ${key} is no list of ids`);
  }
  require(isTable(usage.sampling) && isTable(usage.search), ": usage lacks sampling or search");
  const asked = notDone(usage.search);
  if (asked) {
    throw new BundleError(
      `the source of this model asks for ${asked}, which this page does not do yet; ` +
        "use `edgegpt generate`",
    );
  }
}

/** Return a setting of a source's search that would change a text, and that is not done here. */
function notDone(search) {
  const counts = ["no_repeat_ngram_size", "min_new_tokens"].filter((key) => search[key]);
  const forced = ["forced_bos", "forced_eos"].filter((key) => Number.isInteger(search[key]));
  return [...counts, ...forced, ...(search.bad_words?.length ? ["bad_words"] : [])][0];
}

function checkGraph(graph, files) {
  require(typeof graph?.name === "string", ": a graph has no name");
  require(Object.hasOwn(files, graph.file), `uses ${graph.file}, which its table of files lacks`);
  for (const ports of [graph.inputs, graph.outputs]) {
    require(Array.isArray(ports), `: ${graph.name} lacks its inputs or outputs`);
    for (const port of ports) {
      const whole = typeof port?.name === "string" && port.name && Array.isArray(port.shape);
      require(whole, `: ${graph.name} has a port without a name or a shape`);
      const { name, role } = port;
      require(FED.includes(role) || role === "logits", `: ${graph.name}: ${name} has the role ${role}`);
    }
  }
  for (const { name, shape, role, present } of graph.inputs) {
    const odd = shape.find((size) => !SIZES.includes(size) && !(Number.isSafeInteger(size) && size > 0));
    require(odd === undefined, `: ${graph.name}: ${name} has the size ${JSON.stringify(odd)}`);
    const kept = role !== "cache" || graph.outputs.some((port) => port.name === present);
    require(kept, `: ${graph.name}: ${name} is a cache without an output`);
  }
  const roles = graph.inputs.map((port) => port.role);
  require(roles.includes("ids") && roles.includes("cache"), `: ${graph.name} has no ids or no cache`);
  require(graph.outputs.some((port) => port.role === "logits"), `: ${graph.name} has no logits`);
}

function isTable(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function require(holds, otherwise) {
  if (!holds) throw new BundleError(`${MANIFEST_NAME}${otherwise.startsWith(":") ? "" : " "}${otherwise}`);
}
