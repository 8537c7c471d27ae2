"""The decoder-only transformer. Read `config`, `rotary`, `layers` and `gpt` in this order.

A few switches cover the character GPT, GPT-2, and the families of real checkpoints. Each module has
two paths over the same weights. `forward` has no cache; training and the golden vectors use it.
`forward_cached` keeps the keys and values of earlier tokens; `edgegpt.export` turns it into ONNX.
The model describes its own parts (`GPT.sub_layers`, `writers`, `tied_names` ...), so the exporter
need not know their names. The cache operator is in `cached_attention`, training in
`edgegpt.training`, and file access in `edgegpt.checkpoint`.

Shapes: B batch, T new tokens, S cache slots, C = n_embd, H = n_head, K = n_kv_head, D = head_dim,
V = vocab_size, P = positions whose logits are requested.
"""

from .config import GPTConfig, LayerKind
from .gpt import GPT

__all__ = ["GPT", "GPTConfig", "LayerKind"]
