"""The shapes that are measured, and the prompts. Every environment imports this."""

import random
from dataclasses import dataclass

__all__ = [
    "DECODE_PROMPT",
    "DECODE_TOKENS",
    "SEARCH_SOURCE",
    "SEARCH_TOKENS",
    "SHAPES",
    "USUAL",
    "Shape",
    "prompt_ids",
]

DECODE_PROMPT = 32  # tokens of the prompt in the two decode measurements
DECODE_TOKENS = 128  # tokens decoded after it, per row
SEARCH_SOURCE = 32  # tokens of each source of an encoder-decoder
SEARCH_TOKENS = 64  # tokens made from it


@dataclass(frozen=True)
class Shape:
    """A model of random weights. Its prefill measurement feeds `prefill` tokens."""

    name: str
    family: str  # "gpt2", "llama" or "bart", as transformers names it
    layers: int  # of each stack
    heads: int
    kv_heads: int
    width: int
    feed_forward: int
    vocab: int
    context: int
    activation: str  # as transformers names it
    tied: bool
    prefill: int
    large: bool = False  # too large for a benchmark on a CPU

    @property
    def pairs(self) -> bool:
        """Whether it is an encoder-decoder."""
        return self.family == "bart"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("shakespeare-char", "gpt2", 6, 6, 6, 384, 1536, 65, 256, "relu", False, 128),
        Shape("gpt2-124m", "gpt2", 12, 12, 12, 768, 3072, 50257, 1024, "gelu_new", True, 512),
        Shape("llama-135m", "llama", 30, 9, 3, 576, 1536, 49152, 2048, "silu", True, 512),
        Shape(
            *("tinyllama-1b", "llama", 22, 32, 4, 2048, 5632, 32000, 2048, "silu", False, 512),
            large=True,
        ),
        Shape("bart-61m", "bart", 6, 8, 8, 512, 2048, 32000, 512, "relu", True, 0),
    )
}

USUAL = [name for name, shape in SHAPES.items() if not shape.large]


def prompt_ids(shape: Shape, length: int, row: int = 0) -> list[int]:
    """Return the same ids for every peer. Id 0 is the end-of-text token and never occurs."""
    return random.Random(row).choices(range(1, shape.vocab), k=length)
