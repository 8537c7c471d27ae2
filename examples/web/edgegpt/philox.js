// Random numbers that are a pure function of seed, series, step and token id: those of
// edgegpt/runtime/generation/philox.py, bit for bit, and the series of a prompt.
//
// Philox4x32-10 is from Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011; the constants of its rounds and keys are those of its Random123 library.

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const KEY_STEPS = [0x9e3779b9, 0xbb67ae85]; // golden ratio, sqrt(3) - 1
const ROUNDS = 10;
const HALF_WORD = 2 ** 16;
const UNUSED_BITS = 6; // of a 32-bit word: the rest of two words makes 52 bits

/** Return the upper 32 bits of the product of two 32-bit words; no step exceeds 2^53. */
function upperProduct(a, b) {
  const low = Math.floor((a * (b & 0xffff)) / HALF_WORD);
  return Math.floor((a * (b >>> 16) + low) / HALF_WORD) >>> 0;
}

/** Return the four random 32-bit words of a counter of four words and a key of two. */
export function philox4x32([c0, c1, c2, c3], [k0, k1]) {
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = upperProduct(c0, MULTIPLIERS[0]), low0 = Math.imul(c0, MULTIPLIERS[0]);
    const high2 = upperProduct(c2, MULTIPLIERS[1]), low2 = Math.imul(c2, MULTIPLIERS[1]);
    [c0, c1, c2, c3] = [(high2 ^ c1 ^ k0) >>> 0, low2 >>> 0, (high0 ^ c3 ^ k1) >>> 0, low0 >>> 0];
    k0 = (k0 + KEY_STEPS[0]) >>> 0;
    k1 = (k1 + KEY_STEPS[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * Return standard Gumbel noise for a token id.
 *
 * @param {[number, number]} seed the key, its lower word first
 * @param {[number, number]} series number of the text that is being generated, lower word first
 * @param {number} step number of the token within that text
 * @param {number} id
 */
export function gumbel(seed, series, step, id) {
  const words = philox4x32([id, step >>> 0, ...series], seed);
  // 52 random bits, centred in their interval, are never 0 or 1; 53 bits could round to 1.
  const [high, low] = [words[0] >>> UNUSED_BITS, words[1] >>> UNUSED_BITS];
  return -Math.log(-Math.log((high * 2 ** 26 + low + 0.5) * 2 ** -52));
}

/** Return a whole number of 64 bits as two words, the lower one first. */
export function words(number) {
  const all = BigInt(number);
  return [Number(BigInt.asUintN(32, all)), Number(all >> 32n)];
}

/**
 * Return the series of a prompt's random numbers, as two words: the first 8 bytes of the SHA-256 of
 * its ids, each of them 8 bytes.
 */
export function seriesOf(ids) {
  const bytes = new Uint8Array(new BigInt64Array(Array.from(ids, BigInt)).buffer);
  const swapped = new DataView(sha256(bytes).buffer);
  return [swapped.getUint32(0, true), swapped.getUint32(4, true)];
}

/** Return the first `count` primes. */
function primes(count) {
  const found = [];
  for (let number = 2; found.length < count; number++) {
    if (found.every((prime) => number % prime)) found.push(number);
  }
  return found;
}

const fraction = (number) => Math.floor((number - Math.floor(number)) * 2 ** 32) >>> 0;
const START = primes(8).map((prime) => fraction(Math.sqrt(prime)));
const ADDED = primes(64).map((prime) => fraction(Math.cbrt(prime)));
const rotated = (word, by) => (word >>> by) | (word << (32 - by));

/** Return the SHA-256 of bytes (FIPS 180-4). Browsers offer theirs only over https or localhost. */
export function sha256(bytes) {
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setBigUint64(padded.length - 8, BigInt(bytes.length) * 8n);
  const state = Uint32Array.from(START), w = new Uint32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 64; i++) {
      const [a, b] = [w[i - 15], w[i - 2]];
      w[i] = i < 16 ? view.getUint32(block + 4 * i)
        : w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ (a >>> 3))
          + w[i - 7] + (rotated(b, 17) ^ rotated(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const mixed = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
      const first = (h + mixed + ((e & f) ^ (~e & g)) + ADDED[i] + w[i]) | 0;
      const major = (a & b) ^ (a & c) ^ (b & c);
      const second = ((rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + major) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
  }
  const digest = new Uint8Array(32), out = new DataView(digest.buffer);
  state.forEach((word, i) => out.setUint32(4 * i, word));
  return digest;
}
