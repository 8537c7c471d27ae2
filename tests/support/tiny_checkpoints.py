"""Small random checkpoints that transformers writes, to be imported and compared with it."""

import json
import os
from pathlib import Path
from typing import Any

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may look for a model elsewhere

import transformers
from feeding import greedy
from torch_engine import TorchEngine
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from edgegpt.checkpoint import load_checkpoint
from edgegpt.importers.open import open_source
from edgegpt.importers.run import Import, look, write
from edgegpt.importers.text_only import language_model
from edgegpt.model import GPT

__all__ = [
    "GREEDY_TOKENS",
    "LIMIT",
    "PROMPT",
    "SIZES",
    "error",
    "greedy_text",
    "imported",
    "same_greedy_text",
    "save_tiny",
]

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LIMIT = 2e-5  # of the largest logit; two correct float32 engines differ by 2e-6
PROMPT = [5, 17, 33, 8, 60]
GREEDY_TOKENS = 64
# Sizes that most configurations take: heads of 16, the least that every lowering rotates, and a
# block that is longer than the tests' windows.
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def save_tiny(
    config: PretrainedConfig,
    folder: Path,
    changes: dict[str, Any] | None = None,
    kind: Any = AutoModelForCausalLM,
) -> PreTrainedModel:
    """Write a checkpoint with random weights that all matter; return transformers' model.

    `changes` are made to config.json after the model was built, as other dialects write it; None
    as a value removes the setting. `kind` is the class of transformers that knows the model.
    """
    torch.manual_seed(0)
    model = kind.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(0.15 * noise)
            else:  # norms and biases: keep what they begin with
                parameter.add_(0.2 * noise)
    model.save_pretrained(folder)
    if changes:
        path = folder / "config.json"
        document = {**json.loads(path.read_text()), **changes}
        kept = {name: value for name, value in document.items() if value is not None}
        path.write_text(json.dumps(kept))
    return model


def imported(
    path: Path, out: Path, n_head: int | None = None, *, text_only: bool = False
) -> tuple[GPT, Import]:
    """Import the checkpoint at `path` into the new folder `out`; return the model as loaded."""
    source = open_source(path, n_head)
    found = look(language_model(source) if text_only else source)
    out.mkdir()
    write(found, out)
    return load_checkpoint(out).model, found


@torch.no_grad()
def error(theirs: PreTrainedModel, ours: GPT, length: int = 100) -> float:
    """Return the largest difference of logits, relative to the largest logit, on random ids."""
    ids = torch.randint(3, ours.config.vocab_size, (2, length), generator=torch.Generator())
    expected = theirs(ids).logits.float()
    return float((ours(ids) - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def greedy_text(theirs: PreTrainedModel) -> list[int]:
    """Return `PROMPT` and the tokens that transformers finds likeliest after it."""
    settings = {"do_sample": False, "use_cache": True, "pad_token_id": 0, "eos_token_id": None}
    prompt = torch.tensor([PROMPT])
    text: list[int] = theirs.generate(prompt, max_new_tokens=GREEDY_TOKENS, **settings)[0].tolist()
    return text


def same_greedy_text(theirs: PreTrainedModel, ours: GPT) -> bool:
    """Return whether both continue a prompt with the same tokens, each by its own cached path."""
    text = greedy_text(theirs)
    state = TorchEngine(ours).new_state(1, len(text))
    return greedy(state, PROMPT, GREEDY_TOKENS) == text
