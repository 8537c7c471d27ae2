"""Use the native engines of bundles as a device does; print what came of it as one line of JSON.

Another Python runs this file, as it runs trial.py: python native_trial.py BUNDLE ...
"""

import hashlib
import importlib
import json
import sys
from typing import Any

import numpy as np
from trial import PROMPT, SEEDS, TOKENS, told

IDS = 40  # fed at once, for the bits of their logits


def use(bundle: str) -> dict[str, Any]:
    """Return what verify and generate tell of a bundle, and a hash of logits; or an error."""
    error = importlib.import_module("edgegpt.errors").EngineError
    try:
        with importlib.import_module("edgegpt").load(bundle, "native", threads=2) as model:
            digest = hashlib.sha256(logits(model.engine)).hexdigest()
            target = model.engine.built.library().facts.target.decode()
    except error as refusal:
        return {"refusal": str(refusal)}
    receipt = told("verify", bundle, "--backend", "native")
    write = (
        "generate",
        bundle,
        "--backend",
        "native",
        "-p",
        PROMPT,
        "-n",
        str(TOKENS),
        "-t",
        "0.8",
    )
    texts = [told(*write, "--seed", str(seed))["token_ids"] for seed in SEEDS]
    return {"outcome": receipt["outcome"], "texts": texts, "digest": digest, "target": target}


def logits(engine: Any) -> bytes:
    """Return the logits of a text that is fed in two pieces."""
    with engine.new_state(1, IDS) as state:
        ids = np.arange(IDS)[None] * 7 % state.cache.vocab  # (1, IDS)
        state.step(ids[:, :-1], np.array([0]), np.arange(IDS - 1)[None])
        first = state.logits().copy()
        state.step(ids[:, -1:], np.array([IDS - 1]), np.array([[0]]))
        return bytes(first.tobytes() + state.logits().tobytes())


if __name__ == "__main__":
    print(json.dumps([use(bundle) for bundle in sys.argv[1:]]))
