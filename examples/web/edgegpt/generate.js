// Write one text token by token, by the rules of edgegpt/runtime/generation (loop.py, rows.py).

import { InvalidInputError } from "./errors.js";
import { seriesOf, words } from "./philox.js";
import { choose, samplingOf } from "./sampling.js";
import { Detokenizer } from "./text.js";

const NEW_TOKENS = 200;
const PIECE = 128; // tokens of a prompt that are fed at once; between them the page can react
const TURN_MS = 16; // after so long, the page gets a turn
const OPTIONS = [
  "maxNewTokens", "temperature", "topK", "topP", "minP", "repetitionPenalty",
  "seed", "stop", "endIds", "ignoreEos", "overflow", "signal",
];

/**
 * Return the settings of a call: those given, else the bundle's, else the defaults.
 *
 * @param {object} options what the caller of `stream` gave
 * @param {object} model `usage`, `context`, `vocabSize`, `position` and `reach`, see `edgegpt.js`
 */
export function rulesOf(options, { usage, context, vocabSize, position, reach }) {
  const unknown = Object.keys(options).find((name) => !OPTIONS.includes(name));
  if (unknown) throw new InvalidInputError(`there is no option ${unknown}; there are: ${OPTIONS.join(", ")}`);
  const maxNewTokens = options.maxNewTokens ?? usage?.search.max_new_tokens ?? NEW_TOKENS;
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < 0) {
    throw new InvalidInputError(`maxNewTokens is ${maxNewTokens}; it must be a whole number of 0 or more`);
  }
  const overflow = options.overflow ?? (position === "learned" ? "slide" : "stop");
  if (overflow !== "slide" && overflow !== "stop") {
    throw new InvalidInputError(`overflow is ${overflow}; it must be "slide" or "stop"`);
  }
  const stop = [options.stop ?? []].flat();
  if (!stop.every((text) => typeof text === "string" && text)) {
    throw new InvalidInputError("stop must be a text or several, and none of them empty");
  }
  const endIds = [options.endIds ?? (options.ignoreEos ? [] : usage?.end_ids ?? [])].flat();
  checkIds(endIds, vocabSize);
  return {
    context,
    maxNewTokens,
    overflow,
    stop,
    endIds: new Set(endIds),
    named: Math.max(reach, ...endIds.map((id) => id + 1)),
    sampling: samplingOf(options, recommended(usage?.sampling)),
    seed: seedOf(options.seed),
    signal: options.signal,
  };
}

/** Refuse an id that is not in the vocabulary. */
export function checkIds(ids, vocabSize) {
  const bad = ids.find((id) => !Number.isSafeInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined) {
    throw new InvalidInputError(`the token id ${bad} is not in the vocabulary of ${vocabSize}`);
  }
}

function recommended(sampling) {
  const { temperature, top_k: topK, top_p: topP, min_p: minP } = sampling ?? {};
  return { temperature, topK, topP, minP, repetitionPenalty: sampling?.repetition_penalty };
}

/** Return the seed of a call; undefined draws one. */
function seedOf(seed) {
  if (seed === undefined || seed === null) return crypto.getRandomValues(new Uint32Array(1))[0];
  const whole = typeof seed === "bigint" ? seed : Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (whole < 0n || whole >= 2n ** 64n) {
    throw new InvalidInputError(`the seed ${seed} is no whole number from 0 to 2**64 - 1 (a BigInt from 2**53 on)`);
  }
  return seed;
}

/**
 * Return the index of the first token that the model sees of a text of `length` tokens: the last
 * half of a full window begins the next one.
 */
export function windowStart(length, context) {
  if (length <= context) return 0;
  const stride = context - Math.floor(context / 2);
  return stride * Math.ceil((length - context) / stride);
}

/**
 * A text that is being written: iterate over its pieces, each as soon as it is certain.
 *
 * `result` is null until the iteration has ended: by itself, by `break`, or by the signal. It has
 * the `text`, all new `tokenIds`, the `finishReason` ("length", "stop", "eos", "context" or
 * "closed"), the `seed`, and the times `firstTokenSeconds`, `totalSeconds` and `tokensPerSecond`.
 */
export class Stream {
  result = null;

  /**
   * @param {object} engine
   * @param {object} tokenizer
   * @param {number[]} prompt its ids, at least one
   * @param {object} rules what `rulesOf` returned
   */
  constructor(engine, tokenizer, prompt, rules) {
    if (rules.overflow === "stop" && prompt.length > rules.context) {
      throw new InvalidInputError(
        `the prompt has ${prompt.length} tokens and the context ${rules.context}; shorten it, or ` +
          'go on with its last part: overflow="slide"',
      );
    }
    Object.assign(this, { engine, rules, ids: [...prompt], promptLength: prompt.length, text: "" });
    this.draw = { seed: words(rules.seed), series: seriesOf(prompt) };
    this.detokenizer = new Detokenizer(tokenizer, rules.stop, prompt);
    this.finishReason = rules.maxNewTokens === 0 ? "length" : null;
    this.start = 0; // index of the first token that is in the cache
    this.pieces = this.#write();
  }

  [Symbol.asyncIterator]() {
    return this.pieces;
  }

  /** How many tokens there are so far. */
  get newTokens() {
    return this.ids.length - this.promptLength;
  }

  async *#write() {
    const begin = performance.now();
    const { context, maxNewTokens } = this.rules;
    const state = this.engine.newState(Math.min(this.ids.length + maxNewTokens, context));
    let first = 0;
    this.turned = begin;
    try {
      while (!this.finishReason) {
        const logits = await this.#logits(state);
        if (!logits) return;
        const piece = this.#add(logits);
        first ||= performance.now();
        if (piece) yield piece;
      }
      const rest = this.#shown(this.detokenizer.finish());
      if (rest) yield rest;
    } finally {
      state.close();
      this.result = this.#result(begin, first || begin, performance.now());
    }
  }

  /** Feed what is not in the cache yet; return the logits of the newest token, or null if told to stop. */
  async #logits(state) {
    const { context } = this.rules;
    const isFirst = this.newTokens === 0;
    let past = isFirst ? 0 : this.ids.length - 1 - this.start;
    if (isFirst || past === context) {
      this.start = windowStart(this.ids.length, context);
      past = 0;
    }
    let logits = null;
    for (let from = this.start + past; from < this.ids.length; from += PIECE) {
      await this.#turn();
      if (this.rules.signal?.aborted) {
        this.finishReason = "closed";
        return null;
      }
      logits = await state.step(this.ids.slice(from, from + PIECE), from - this.start);
    }
    return logits;
  }

  /** Choose the next token and add it; return the text that is now certain. */
  #add(logits) {
    const { rules, ids } = this;
    const step = this.newTokens;
    const id = choose(logits, rules.sampling, ids, { ...this.draw, step }, rules.named);
    ids.push(id);
    if (rules.endIds.has(id)) {
      this.finishReason = "eos";
      return "";
    }
    if (step + 1 === rules.maxNewTokens) this.finishReason = "length";
    else if (rules.overflow === "stop" && ids.length > rules.context) this.finishReason = "context";
    const piece = this.#shown(this.detokenizer.push(id));
    if (this.detokenizer.stopped) this.finishReason = "stop";
    return piece;
  }

  #shown(piece) {
    this.text += piece;
    return piece;
  }

  /** Let the page draw and react, if it has waited; ONNX Runtime's wasm does not. */
  async #turn() {
    if (performance.now() - this.turned < TURN_MS) return;
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel(); // unlike timers, not slowed down in hidden tabs
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    });
    this.turned = performance.now();
  }

  #result(begin, first, end) {
    const tokenIds = this.ids.slice(this.promptLength);
    const totalSeconds = (end - begin) / 1000;
    return {
      text: this.text,
      tokenIds,
      finishReason: this.finishReason ?? "closed",
      seed: this.rules.seed,
      firstTokenSeconds: (first - begin) / 1000,
      totalSeconds,
      tokensPerSecond: totalSeconds > 0 ? tokenIds.length / totalSeconds : 0,
    };
  }
}
