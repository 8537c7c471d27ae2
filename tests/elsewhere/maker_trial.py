"""Train a model and export it, by the commands, and print what came of it as one line of JSON.

`python maker_trial.py FOLDER TEXT PRECISION...`; another Python runs this file, one with other
versions of PyTorch and onnx. It needs nothing but the standard library and what `trial.py` needs.
"""

import json
import sys

from trial import command, told

STEPS = ("--max-steps", "4", "--warmup-steps", "1", "--batch-size", "2", "--eval-interval", "4")
SIZES = ("--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "32")
LOSS = ("--max-kl", "1")  # a model that has learned nothing yet


def made(folder: str, text: str, *precisions: str) -> dict[str, object]:
    """Return the exit codes of training and of the exports, and how the proofs ended."""
    checkpoint, found = f"{folder}/checkpoint", {}
    settings = ("--preset", "tiny", "--data", text, *STEPS, *SIZES)
    found["train"] = command("train", "--out", checkpoint, *settings)[0]
    for precision in precisions:
        bundle = f"{folder}/{precision}"
        loss = LOSS if precision.startswith("int") else ()
        code, _ = command("export", checkpoint, "--out", bundle, "--precision", precision, *loss)
        found[precision] = code, told("verify", bundle).get("outcome")
    return found


if __name__ == "__main__":
    print(json.dumps(made(*sys.argv[1:])))
