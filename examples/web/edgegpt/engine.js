// Run a bundle's graph with ONNX Runtime for the web: one row, and a cache that grows with it.

import { BundleError, EngineError, InvalidInputError } from "./errors.js";

const ARRAYS = { int64: BigInt64Array, int32: Int32Array, float32: Float32Array };
const SLOTS = 64; // a cache grows by so many
const ERRORS_ONLY = 3;
const MOST_THREADS = 64; // where nothing tells how many processors there are: in node before 21
const running = new Map(); // modules of ONNX Runtime that have started, and their threads

/**
 * Return which backend runs, and why.
 *
 * @param {"auto" | "wasm" | "webgpu"} wanted
 * @param {string} precision of the bundle
 * @returns {Promise<{backend: "wasm" | "webgpu", why: string}>}
 */
export async function chooseBackend(wanted, precision) {
  if (!["auto", "wasm", "webgpu"].includes(wanted)) {
    throw new EngineError(`no backend ${JSON.stringify(wanted)}; there are: auto, wasm, webgpu`);
  }
  if (wanted === "wasm") return { backend: "wasm", why: "it was asked for" };
  if (wanted === "auto" && precision === "int8") {
    return { backend: "wasm", why: "WebGPU has no kernels for int8" };
  }
  const adapter = await globalThis.navigator?.gpu?.requestAdapter();
  let lack = "";
  if (!adapter) lack = "this browser offers no WebGPU adapter";
  else if (precision === "float16" && !adapter.features.has("shader-f16")) lack = "its WebGPU has no float16";
  if (wanted === "webgpu") {
    if (lack) throw new EngineError(`WebGPU does not run here: ${lack}; take wasm`);
    return { backend: "webgpu", why: "it was asked for" };
  }
  if (!lack && adapter.info?.isFallbackAdapter) lack = "this browser's WebGPU is computed on the CPU";
  return lack ? { backend: "wasm", why: lack } : { backend: "webgpu", why: "this browser offers an adapter" };
}

/** Set the threads of a module of ONNX Runtime, which keeps those that it started with. */
export function setThreads(ort, threads) {
  const most = globalThis.navigator?.hardwareConcurrency ?? MOST_THREADS;
  if (!Number.isSafeInteger(threads) || threads < 1 || threads > most) {
    throw new InvalidInputError(
      `threads is ${threads}; it must be a whole number from 1 to ${most}, as many as there are processors`,
    );
  }
  const old = running.get(ort);
  if (old !== undefined && old !== threads) {
    throw new EngineError(
      `threads is ${threads}, but ONNX Runtime runs with ${old} already: the first bundle that a page opens decides`,
    );
  }
  ort.env.wasm.numThreads = threads;
}

/** A graph and its weights in ONNX Runtime; `newState` gives the cache of one text. */
export class Engine {
  /**
   * @param {object} ort the module onnxruntime-web
   * @param {object} graph an entry of the manifest
   * @param {"wasm" | "webgpu"} backend
   * @param {Uint8Array} file the graph's file
   * @param {{path: string, data: Uint8Array}} weights
   */
  static async open(ort, graph, backend, file, weights) {
    const engine = new Engine();
    Object.assign(engine, { ort, graph, backend });
    const options = {
      executionProviders: [backend],
      externalData: [weights],
      logSeverityLevel: ERRORS_ONLY,
      preferredOutputLocation: engine.onDevice ? engine.#locations() : "cpu",
    };
    try {
      engine.session = await ort.InferenceSession.create(file, options);
    } catch (error) {
      throw new EngineError(`ONNX Runtime cannot load ${graph.file} with ${backend}: ${error.message ?? error}`);
    }
    engine.#checkPorts();
    if (!running.has(ort)) running.set(ort, ort.env.wasm.numThreads);
    engine.threads = running.get(ort);
    engine.last = Promise.resolve();
    return engine;
  }

  /** Whether caches stay on the GPU. */
  get onDevice() {
    return this.backend === "webgpu";
  }

  #locations() {
    return Object.fromEntries(
      this.graph.outputs.map(({ name, role }) => [name, role === "cache" ? "gpu-buffer" : "cpu"]),
    );
  }

  /** Demand that the graph has what the manifest says. */
  #checkPorts() {
    const { inputs, outputs, file } = this.graph;
    const named = (ports) => ports.map(({ name }) => name);
    const lost = named(outputs).find((name) => !this.session.outputNames.includes(name));
    const unfed = this.session.inputNames.find((name) => !named(inputs).includes(name));
    if (lost ?? unfed) {
      throw new BundleError(`${file} does not go with edgegpt.json: ${lost ?? unfed} is in one of them only`);
    }
  }

  /** Return a tensor with the values that `data` gives. */
  tensor({ name, dtype }, data, dims) {
    try {
      return new this.ort.Tensor(dtype, data(), dims);
    } catch (error) {
      throw new EngineError(`there is no room for ${name}, or it does not fit the model: ${error.message}`);
    }
  }

  /** Return an empty cache for a text of up to `slots` tokens. */
  newState(slots) {
    if (!this.session) throw new EngineError("the model was closed");
    return new State(this, slots);
  }

  /** Run the session; texts that are written side by side take turns. */
  async run(feeds, fetches) {
    const before = this.last;
    let done;
    this.last = new Promise((resolve) => (done = resolve));
    await before;
    try {
      if (!this.session) throw new Error("the model was closed");
      return await this.session.run(feeds, fetches, { logSeverityLevel: ERRORS_ONLY });
    } catch (error) {
      throw new EngineError(`ONNX Runtime failed while running the model: ${error.message ?? error}`);
    } finally {
      done();
    }
  }

  async close() {
    const { session } = this;
    this.session = null;
    await this.last;
    await session?.release();
  }
}

/** The keys and values of one text, for up to `slots` tokens. */
class State {
  constructor(engine, slots) {
    this.engine = engine;
    this.slots = slots;
    this.caches = engine.graph.inputs.filter(({ role }) => role === "cache");
    // On the CPU each step copies the whole cache in and out, so it has few slots at first.
    this.room = engine.onDevice ? slots : Math.min(slots, SLOTS);
    this.tensors = Object.fromEntries(this.caches.map((port) => [port.name, this.#tensor(port, this.room)]));
  }

  /**
   * Feed ids into the slots from `past` on; return the logits of the last one.
   *
   * @param {number[]} ids
   * @param {number} past slots that are filled; those after them are overwritten
   * @returns {Promise<Float32Array>} [vocab_size]
   */
  async step(ids, past) {
    const end = past + ids.length;
    if (end > this.slots) throw new EngineError(`${end} tokens do not fit the cache of ${this.slots}`);
    if (end > this.room) this.#grow(Math.min(this.slots, Math.ceil(end / SLOTS) * SLOTS));
    const values = {
      ids,
      past_len: [past],
      logit_positions: [ids.length - 1],
      seqlens_k: [end - 1],
      total_sequence_length: [end],
      position_ids: ids.map((_, place) => past + place),
    };
    const sizes = { batch: 1, new_tokens: ids.length, logit_positions: 1 };
    const { inputs, outputs } = this.engine.graph;
    const feeds = { ...this.tensors };
    for (const port of inputs) {
      if (port.role === "cache") continue;
      const data = () => ARRAYS[port.dtype].from(values[port.role], port.dtype === "int64" ? BigInt : Number);
      feeds[port.name] = this.engine.tensor(port, data, port.shape.map((size) => sizes[size] ?? size));
    }
    // In wasm an output that is given in advance is silently not written: null asks for a new one.
    const fetches = Object.fromEntries(outputs.map(({ name }) => [name, null]));
    const found = await this.engine.run(feeds, fetches);
    for (const { name, present } of this.caches) {
      if (this.engine.onDevice) this.tensors[name].dispose();
      this.tensors[name] = found[present];
    }
    return found[outputs.find(({ role }) => role === "logits").name].data;
  }

  /** Free what is on the device. */
  close() {
    if (this.engine.onDevice) for (const tensor of Object.values(this.tensors)) tensor.dispose();
  }

  /** Return a cache of zeros, or with the slots of a smaller one. */
  #tensor(port, room) {
    const dims = port.shape.map((size) => ({ batch: 1, context: room })[size] ?? size); // [1, heads, room, width]
    return this.engine.tensor(port, () => this.#slots(port, dims), dims);
  }

  #slots({ name, dtype }, [, heads, room, width]) {
    const half = globalThis.Float16Array ?? Uint16Array; // zero is the same in both
    const data = new (ARRAYS[dtype] ?? half)(heads * room * width);
    const old = this.tensors?.[name]?.data;
    if (old) {
      const before = this.room * width;
      for (let head = 0; head < heads; head++) {
        data.set(old.subarray(head * before, (head + 1) * before), head * room * width);
      }
    }
    return data;
  }

  #grow(room) {
    this.tensors = Object.fromEntries(this.caches.map((port) => [port.name, this.#tensor(port, room)]));
    this.room = room;
  }
}
