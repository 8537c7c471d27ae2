// What is wrong, by what it is about; each message is a sentence for the person who reads it.

/** Any error of edgegpt. */
export class EdgeGPTError extends Error {
  name = this.constructor.name;
}

/** The bundle is missing, damaged, of another format version, or of a kind that does not run here. */
export class BundleError extends EdgeGPTError {}

/** A prompt or a setting is impossible. */
export class InvalidInputError extends EdgeGPTError {}

/** ONNX Runtime is missing, or failed. */
export class EngineError extends EdgeGPTError {}

/** The model computed what is no number. */
export class NumericalError extends EdgeGPTError {}
