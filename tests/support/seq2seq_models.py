"""Small encoder-decoders, one of each family's switches, and texts of ids for them."""

from dataclasses import replace

import torch
from torch import Tensor

from edgegpt.model import GPTConfig, Seq2Seq, Seq2SeqConfig

__all__ = ["LENGTHS", "STACK", "T5", "VARIANTS", "VOCABULARY", "WIDTH", "seq2seq", "texts"]

WIDTH, VOCABULARY, BLOCK = 32, 41, 24
STACK = {
    "vocab_size": VOCABULARY,
    "block_size": BLOCK,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": WIDTH,
    "n_ff": 48,
    "qkv_bias": True,
    "tie_embeddings": True,
    "embedding_scale": WIDTH**0.5,
}
PAPER = STACK | {"position": "sinusoidal", "norm_placement": "post", "final_norm": False}
T5 = STACK | {
    "position": "relative",
    "relative_buckets": 8,
    "relative_distance": 12,
    "norm": "rmsnorm",
    "head_dim": 16,
    "attention_scale": 1.0,
    "embedding_scale": 1.0,
    "gated": True,
    "activation": "gelu_tanh",
}
VARIANTS = {
    "paper": PAPER,
    "pre-norm, no positions": STACK | {"position": "none"},
    "bart": PAPER | {"position": "learned", "embedding_norm": True, "activation": "gelu"},
    "t5": T5,
    "umt5": T5 | {"relative_shared": False, "tie_embeddings": False},
}


def seq2seq(
    stack: dict, *, encoder: dict | None = None, decoder_layers: int = 3, **changes: object
) -> Seq2Seq:
    """Return an untrained model in which every weight matters; both stacks are alike by default."""
    decoder = replace(GPTConfig.from_dict(stack), n_layer=decoder_layers)
    config = Seq2SeqConfig(GPTConfig.from_dict(encoder or stack), decoder, **changes)
    torch.manual_seed(0)
    model = Seq2Seq(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts(count: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.manual_seed(seed))


LENGTHS = torch.tensor([9, 4, 1])
