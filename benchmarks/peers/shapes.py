"""The three shapes that are measured, and the prompts. Every environment imports this."""

import random
from dataclasses import dataclass

__all__ = ["DECODE_PROMPT", "DECODE_TOKENS", "SHAPES", "Shape", "prompt_ids"]

DECODE_PROMPT = 32  # tokens of the prompt in the two decode measurements
DECODE_TOKENS = 128  # tokens decoded after it, per row


@dataclass(frozen=True)
class Shape:
    """A model of random weights. Its prefill measurement feeds `prefill` tokens."""

    name: str
    family: str  # "gpt2" or "llama", as transformers names it
    layers: int
    heads: int
    kv_heads: int
    width: int
    feed_forward: int
    vocab: int
    context: int
    activation: str  # as transformers names it
    tied: bool
    prefill: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("shakespeare-char", "gpt2", 6, 6, 6, 384, 1536, 65, 256, "relu", False, 128),
        Shape("gpt2-124m", "gpt2", 12, 12, 12, 768, 3072, 50257, 1024, "gelu_new", True, 512),
        Shape("llama-135m", "llama", 30, 9, 3, 576, 1536, 49152, 2048, "silu", True, 512),
    )
}


def prompt_ids(shape: Shape, length: int, row: int = 0) -> list[int]:
    """Return the same ids for every peer. Id 0 is the end-of-text token and never occurs."""
    return random.Random(row).choices(range(1, shape.vocab), k=length)
