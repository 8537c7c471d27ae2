"""The transformer: decoder-only, and with an encoder.

Read `config`, `attention`, `layers`, `stack`, `gpt` and `seq2seq` in this order. A few switches
cover the character GPT, GPT-2, the families of real checkpoints, and the encoder-decoders. Each
module has two paths over the same weights. `forward` has no cache; training and the golden vectors
use it. `forward_cached` keeps the keys and values of earlier tokens, and `forward_source` sees a
source as a whole; `edgegpt.export` turns them into ONNX. The model describes its own parts
(`GPT.sub_layers`, `writers`, `tied_names` ...), so the exporter need not know their names. The two
operators are in `cached_attention` and `source_attention`, training in `edgegpt.training`, and file
access in `edgegpt.checkpoint`.

Shapes: B batch, T new tokens, S cache slots, G sources, N tokens of a source, C = n_embd,
H = n_head, K = n_kv_head, D = head_dim, V = vocab_size, P = positions whose logits are requested.
"""

from .config import GPTConfig, LayerKind
from .gpt import GPT
from .seq2seq import Seq2Seq, Seq2SeqConfig

__all__ = ["GPT", "GPTConfig", "LayerKind", "Seq2Seq", "Seq2SeqConfig"]
