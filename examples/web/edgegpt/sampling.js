// Choose the next token from one row of logits, as edgegpt/runtime/generation/sampling.py does:
// repetition penalty, temperature, top-k, top-p, min-p, then argmax(score + noise) in float64.

import { InvalidInputError, NumericalError } from "./errors.js";
import { gumbel } from "./philox.js";

const PLAIN = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
const RANGES = {
  temperature: ["0 or more", (value) => value >= 0],
  topP: ["above 0 and at most 1", (value) => value > 0 && value <= 1],
  minP: ["from 0 to 1", (value) => value >= 0 && value <= 1],
  repetitionPenalty: ["above 0", (value) => value > 0],
};

/** Return the settings of a call: those given, else those recommended, else the most likely token. */
export function samplingOf(given, recommended = {}) {
  const settings = {};
  for (const [name, plain] of Object.entries(PLAIN)) {
    settings[name] = given[name] ?? recommended[name] ?? plain;
  }
  for (const [name, [expected, holds]] of Object.entries(RANGES)) {
    if (!Number.isFinite(settings[name]) || !holds(settings[name])) {
      throw new InvalidInputError(`${name} is ${settings[name]}; it must be a number ${expected}`);
    }
  }
  if (!Number.isInteger(settings.topK) || settings.topK < 0) {
    throw new InvalidInputError(`topK is ${settings.topK}; it must be a whole number of 0 (off) or more`);
  }
  return settings;
}

/**
 * Return the id of the next token.
 *
 * @param {Float32Array} logits one for each id of the vocabulary
 * @param {object} sampling what `samplingOf` returned
 * @param {number[]} history ids of the text so far, the prompt included
 * @param {object} draw `seed` and `series`, two words each, and the number of the new token, `step`
 * @param {number} named only ids below it can be chosen
 */
export function choose(logits, sampling, history, draw, named = logits.length) {
  refuseBad(logits, draw.step);
  const scores = new Float64Array(logits);
  if (sampling.repetitionPenalty !== 1) penalise(scores, new Set(history), sampling.repetitionPenalty);
  const best = largest(scores, named);
  if (scores[best] === -Infinity) throw new NumericalError(`no id can be token ${draw.step}: all logits are -inf`);
  if (sampling.temperature === 0) return best;
  const highest = scores[best], kept = scores.subarray(0, named);
  for (let id = 0; id < named; id++) kept[id] = (kept[id] - highest) / sampling.temperature;
  const ids = candidates(kept, sampling);
  const noisy = ids.map((id) => kept[id] + gumbel(draw.seed, draw.series, draw.step, id));
  return ids[largest(noisy, noisy.length)];
}

function refuseBad(logits, step) {
  let bad = "nothing but -inf";
  for (const logit of logits) {
    if (Number.isNaN(logit) || logit === Infinity) {
      bad = Number.isNaN(logit) ? "NaN" : "+inf";
      break;
    }
    if (logit > -Infinity) bad = "";
  }
  if (bad) {
    throw new NumericalError(
      `the logits for token ${step} hold ${bad}: the model or the engine is broken; ` +
        "run `edgegpt verify` on the bundle",
    );
  }
}

/** Return the place of the largest of the first `count` values; of equal ones, the first. */
function largest(values, count) {
  let best = 0;
  for (let place = 1; place < count; place++) if (values[place] > values[best]) best = place;
  return best;
}

/** Divide positive, multiply negative scores of the ids in the text. */
function penalise(scores, seen, penalty) {
  for (const id of seen) {
    const score = scores[id];
    if (score === -Infinity) continue;
    const changed = score > 0 ? score / penalty : score * penalty;
    scores[id] = Math.max(-Number.MAX_VALUE, Math.min(changed, Number.MAX_VALUE));
  }
}

/** Return the ids that the filters keep: a prefix of the ranking by score, in the order of the ids. */
function candidates(scores, { topK, topP, minP }) {
  const all = [...scores.keys()];
  if (!topK && topP === 1 && minP === 0) return all;
  const ranked = scores.slice().sort().reverse(); // a typed array sorts by value
  const count = prefix(ranked.subarray(0, topK || undefined), topP, minP);
  const last = ranked[count - 1];
  let equal = count - ranked.indexOf(last); // so many of those as good as the last one, the first ids
  return all.filter((id) => scores[id] > last || (scores[id] === last && equal-- > 0));
}

/** Return how many of the falling scores top-p and min-p keep, at least one. */
function prefix(ranked, topP, minP) {
  if (topP === 1 && minP === 0) return ranked.length;
  const weights = ranked.map((score) => Math.exp(score - ranked[0])); // the best is 1
  const limit = topP < 1 ? topP * weights.reduce((sum, weight) => sum + weight, 0) : Infinity;
  let count = 0, sum = 0;
  for (const weight of weights) {
    sum += weight;
    if (sum - weight >= limit || weight < minP) break; // the better ones have the mass already
    count++;
  }
  return Math.max(count, 1);
}
