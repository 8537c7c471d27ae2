"""OPT, Galactica: learned positions whose first two rows are unused."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, sizes
from ..layout import Layout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

LAYOUT = Layout(
    token="model.decoder.embed_tokens",
    position="model.decoder.embed_positions",
    position_offset=2,
    layer="model.decoder.layers.{}.",
    norm_1="self_attn_layer_norm",
    norm_2="final_layer_norm",
    proj="self_attn.out_proj",
    up="fc1",
    down="fc2",
    final="model.decoder.final_layer_norm",
)


def _config(source: SourceSettings) -> GPTConfig:
    source.must_be("do_layer_norm_before", True, why="it has its norms after the additions")
    source.must_be("_remove_final_layer_norm", False, why="it lacks the norm before the head")
    source.must_be("learned_embeddings", True, why="its positions are not in the weights")
    source.must_be("scale_embeddings", False, why="the family does not scale its embedding")
    bias = source.flag("enable_bias", default=True)
    config = replace(
        sizes(source, tied=True, gated=False),
        norm="layernorm",
        norm_eps=1e-5,  # not a setting of this family
        norm_bias=_has_weights(source),
        position="learned",
        activation=activation(source, "activation_function", default="relu"),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=bias,
    )
    source.must_be(
        "word_embed_proj_dim", config.n_embd, why="it projects its embedding to another width"
    )
    return config


def _has_weights(source: SourceSettings) -> bool:
    return source.flag("layer_norm_elementwise_affine", default=True)


def _layout(source: SourceSettings) -> Layout:
    if _has_weights(source):
        return LAYOUT
    return replace(LAYOUT, norm_1=None, norm_2=None, final=None)


FAMILIES = [Family("opt", "OPT (but 350m), Galactica", _config, _layout)]
