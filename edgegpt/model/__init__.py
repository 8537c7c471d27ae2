"""The decoder-only transformer: `config`, `rotary`, `layers` and `gpt`, to be read in this order.

A few switches span the character GPT, GPT-2 and the Llama family. Each module has two paths over
the same weights: `forward`, plain and cache-free, which training and the golden vectors use, and
`forward_cached`, which keeps keys and values of earlier tokens and is what `edgegpt.export` turns
into ONNX. The model tells its parts itself (`GPT.sub_layers`, `writers`, `tied_names` ...), so that
the exporter need not know their names. The cache operator is in `cached_attention`; training is in
`edgegpt.training`, files in `edgegpt.checkpoint`.

Shapes: B batch, T new tokens, S cache slots, C = n_embd, H = n_head, K = n_kv_head, D = head_dim,
V = vocab_size, P = positions whose logits are wanted.
"""

from .config import GPTConfig
from .gpt import GPT

__all__ = ["GPT", "GPTConfig"]
