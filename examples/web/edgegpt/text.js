// Turn text into ids and back, without losing a character silently, and up to a stop string.

import { BundleError, InvalidInputError } from "./errors.js";

const REPLACEMENT = "\ufffd"; // what bytes decode to that are not (yet) a whole character
// The three bytes of U+FFFD itself in names of tokens: in GPT-2's alphabet of bytes, and as Llama's.
const ITS_BYTES = ["\u00ef\u00bf\u00bd", "<0xEF><0xBF><0xBD>"];
const LONGEST = 40; // characters of an unknown word in a message

/** The tokenizer of a bundle. `Backend` is the class Tokenizer of @huggingface/tokenizers. */
export class Tokenizer {
  /**
   * @param {Function} Backend
   * @param {string} json the text of tokenizer.json
   * @param {number} rows how many ids the model has
   */
  constructor(Backend, json, rows) {
    try {
      this.backend = new Backend(JSON.parse(json), {});
    } catch (error) {
      throw new BundleError(`tokenizer.json cannot be read: ${error.message}`);
    }
    this.rows = rows;
    const added = [...this.backend.get_added_tokens_decoder()];
    this.specialIds = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
    const ordinary = this.backend.get_vocab(false).size;
    if (ordinary > rows) {
      throw new BundleError(
        `the tokenizer has ${ordinary} ids, the model only ${rows}: it belongs to another model`,
      );
    }
  }

  /** How many of the model's ids there are up to the last one that has a text. */
  get reach() {
    let count = this.rows;
    while (count > 0 && this.nameOf(count - 1) === undefined) count--;
    return count;
  }

  nameOf(id) {
    return this.backend.id_to_token(id);
  }

  /**
   * Return the ids of a text.
   *
   * @throws {InvalidInputError} for a part of it that has no id, or one that the model lacks
   */
  encode(text) {
    const { ids, tokens } = this.backend.encode(text, { add_special_tokens: false });
    const { unk_token: unknown, unk_token_id: unknownId } = this.backend.model;
    const strange = ids.findIndex((id) => id === undefined || id === unknownId);
    if (strange >= 0 && tokens[strange] !== unknown) throw unknownPart(tokens[strange], text);
    if (strange >= 0 && !text.includes(unknown)) this.#refuseDropped(text);
    if (unknownId === undefined && this.decode(ids) !== text) this.#refuseDropped(text);
    const beyond = ids.find((id) => id >= this.rows);
    if (beyond !== undefined) {
      throw new InvalidInputError(
        `the token ${JSON.stringify(this.nameOf(beyond))} has the id ${beyond}, which the model ` +
          `never learned: it has only ${this.rows} ids`,
      );
    }
    return ids;
  }

  /** Return the text of ids; those beyond the vocabulary have none. */
  decode(ids) {
    const known = ids.filter((id) => this.nameOf(id) !== undefined);
    if (!known.length) return "";
    return this.backend.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  }

  /** Refuse the first character of the text that has no id when encoded alone. */
  #refuseDropped(text) {
    for (const character of new Set(text)) if (!this.#isKnown(character)) throw unknownPart(character, text);
  }

  /** Return whether a character has an id of its own, or is left out on purpose. */
  #isKnown(character) {
    const { normalizer, pre_tokenizer: splitter, model } = this.backend;
    const left = normalizer ? normalizer(character) : character;
    if (!left || (splitter && !splitter(left).join(""))) return true;
    const { ids } = this.backend.encode(character, { add_special_tokens: false });
    return ids.length > 0 && ids.every((id) => id !== undefined && id !== model.unk_token_id);
  }
}

function unknownPart(part, text) {
  const points = [...part];
  const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
  const what = points.length === 1
    ? `the character ${JSON.stringify(part)} (U+${code})`
    : `the word ${JSON.stringify(points.slice(0, LONGEST).join(""))}`;
  const position = [...text.slice(0, Math.max(0, text.indexOf(part)))].length;
  return new InvalidInputError(
    `${what} at position ${position} of the text is not in the model's vocabulary`,
  );
}

/**
 * Turns ids into text as they arrive, and stops at a stop string, as runtime/text/stops.py does.
 *
 * It holds back an incomplete character, and text that may be the beginning of a stop string. The
 * pieces of `push` and `finish`, joined, are the text up to the stop string, without special tokens.
 */
export class Detokenizer {
  /** Begin after the ids `before`, which decide whether the text begins with a space. */
  constructor(tokenizer, stop, before) {
    this.tokenizer = tokenizer;
    this.stop = stop;
    const special = before.findLastIndex((id) => tokenizer.specialIds.has(id));
    this.ids = before.slice(special + 1);
    const text = tokenizer.decode(this.ids);
    // The part of the text of ids from `context` on that has been returned.
    this.shown = this.#whole(text);
    this.context = 0; // new ids are decoded together with ids[context .. done - 1]
    this.done = this.shown.length === text.length ? this.ids.length : 0;
    this.pending = "";
    this.stopped = false;
  }

  /** Take one id and return the text that is now certain; it may be empty. */
  push(id) {
    if (this.tokenizer.specialIds.has(id)) return "";
    this.pending += this.#decoded(id);
    const found = this.stop.map((text) => this.pending.indexOf(text)).filter((place) => place >= 0);
    this.stopped = found.length > 0;
    const end = this.stopped ? Math.min(...found) : this.pending.length - this.#possibleStop();
    const piece = this.pending.slice(0, end);
    this.pending = this.stopped ? "" : this.pending.slice(end);
    return piece;
  }

  /** Return the text that was held back for a stop string that did not come. */
  finish() {
    const piece = this.pending;
    this.pending = "";
    return piece;
  }

  /** Return the text that an id completes, which may depend on the ids before it. */
  #decoded(id) {
    this.ids.push(id);
    const text = this.tokenizer.decode(this.ids.slice(this.context));
    const whole = this.#whole(text);
    const piece = whole.slice(this.shown.length);
    if (whole.length < text.length) {
      this.shown += piece;
      return piece;
    }
    this.context = this.done;
    this.done = this.ids.length;
    this.shown = this.tokenizer.decode(this.ids.slice(this.context));
    return piece;
  }

  /** Return the text of the last ids without a character that it ends inside of. */
  #whole(text) {
    const names = this.ids.slice(-3).map((id) => this.tokenizer.nameOf(id) ?? "");
    const named = names.join("");
    const isWhole = names.at(-1)?.includes(REPLACEMENT) || ITS_BYTES.some((bytes) => named.endsWith(bytes));
    return isWhole ? text : text.replace(/\ufffd+$/, "");
  }

  /** Return how many characters at the end could be the beginning of a stop string. */
  #possibleStop() {
    const longest = Math.max(0, ...this.stop.map((text) => text.length));
    for (let length = Math.min(this.pending.length, longest); length > 0; length--) {
      const end = this.pending.slice(-length);
      if (this.stop.some((text) => text.startsWith(end))) return length;
    }
    return 0;
  }
}
