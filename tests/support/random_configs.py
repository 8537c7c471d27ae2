"""Random settings of tiny models, over everything that the native engine computes."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from edgegpt.model import GPTConfig, LayerKind

__all__ = ["configs"]

POSITIONS = ["learned", "sinusoidal", "rope", "relative", "none"]
SWITCHES = [
    *("norm_bias", "final_norm", "embedding_norm", "gated", "tie_embeddings"),
    *("qkv_bias", "proj_bias", "ff_bias", "head_bias"),
]


@st.composite
def configs(draw: st.DrawFn) -> GPTConfig:
    """Draw the settings of a model that the native engine computes."""
    head_dim, position = draw(st.integers(4, 40)), draw(st.sampled_from(POSITIONS))
    head_dim *= 2 if position == "rope" or draw(st.booleans()) else 1
    kv_heads, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    norm = draw(st.sampled_from(["layernorm", "rmsnorm"]))
    switch = {name: draw(st.booleans()) for name in SWITCHES}
    placement = draw(st.sampled_from(["pre", "output", "sandwich", "post"]))
    kinds = draw(st.lists(layer_kinds(head_dim, position), max_size=2))
    return GPTConfig(
        vocab_size=draw(st.integers(1, 70)),
        block_size=draw(st.integers(24, 300)),
        n_layer=layers,
        n_head=kv_heads * draw(st.integers(1, 4)),
        n_kv_head=kv_heads,
        head_dim=head_dim,
        n_embd=draw(st.integers(8, 100)),
        n_ff=draw(st.integers(1, 150)),
        norm=norm,
        norm_eps=draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        norm_placement=placement,
        parallel=placement != "post" and draw(st.booleans()),
        position=position,
        rope_theta=draw(st.sampled_from([100.0, 10000.0])),
        layer_kinds=tuple(kinds),
        layer_kind=tuple(draw(st.integers(0, len(kinds) - 1)) for _ in range(layers) if kinds),
        activation=draw(st.sampled_from(["relu", "relu2", "gelu", "gelu_tanh", "silu"])),
        qk_norm=draw(st.sampled_from(["none", "head", "full"])),
        attention_scale=draw(st.sampled_from([None, 0.3])),
        attention_softcap=0.0 if position == "relative" else draw(st.sampled_from([0.0, 2.0])),
        relative_buckets=draw(st.sampled_from([4, 32])),
        relative_distance=draw(st.sampled_from([33, 128])),
        relative_shared=draw(st.booleans()),
        logit_softcap=draw(st.sampled_from([0.0, 3.0])),
        embedding_scale=draw(st.sampled_from([1.0, 2.5])),
        residual_scale=draw(st.sampled_from([1.0, 0.4])),
        **switch,
    )


@st.composite
def layer_kinds(draw: st.DrawFn, head_dim: int, position: str) -> Any:
    """Draw how a layer sees positions: a window, and a rotation of a part of the head."""
    pairs = draw(st.integers(0, head_dim // 2)) if position == "rope" else 0
    angles = tuple(float(np.float32(0.9**i)) for i in range(pairs))
    window = draw(st.sampled_from([0, 1, 3, 17, 140]))
    return LayerKind(window, angles, draw(st.sampled_from([1.0, 1.2])))
