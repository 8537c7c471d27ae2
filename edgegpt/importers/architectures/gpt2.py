"""GPT-2, DistilGPT-2, DialoGPT, Cerebras-GPT: learned positions, linear layers as [in, out]."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, sizes
from ..layout import Layout
from ..settings import SourceSettings

__all__ = ["FAMILIES", "LAYOUT", "config_of"]

LAYOUT = Layout(
    prefix="transformer.",
    token="transformer.wte",
    position="transformer.wpe",
    layer="transformer.h.{}.",
    norm_1="ln_1",
    norm_2="ln_2",
    qkv="attn.c_attn",
    proj="attn.c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    final="transformer.ln_f",
    transposed=True,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
)


def config_of(source: SourceSettings, usual: str) -> GPTConfig:
    """Return the settings; `usual` is the family's default non-linearity."""
    config = replace(
        sizes(source, norm_eps=1e-5, tied=True, gated=False),
        norm="layernorm",
        position="learned",
        activation=activation(source, "activation_function", default=usual),
        qkv_bias=True,
        proj_bias=True,
        ff_bias=True,
    )
    if not source.flag("scale_attn_weights", default=True):
        config = replace(config, attention_scale=1.0)
    return config


def _config(source: SourceSettings) -> GPTConfig:
    # Nothing reads the first four any more; the last one chooses the order of a product.
    source.ignore("n_ctx", "n_special", "predict_special_tokens", "_num_labels")
    source.ignore("reorder_and_upcast_attn")
    return config_of(source, "gelu_new")


def _layout(source: SourceSettings) -> Layout:
    if not source.flag("scale_attn_by_inverse_layer_idx", default=False):
        return LAYOUT
    return replace(LAYOUT, query_factor=lambda layer: 1 / (layer + 1))


FAMILIES = [
    Family("gpt2", "GPT-2, DistilGPT-2, DialoGPT, Cerebras-GPT", _config, _layout),
    Family("gpt-sw3", "GPT-SW3", _config, _layout),
]
