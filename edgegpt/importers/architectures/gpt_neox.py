"""GPT-NeoX, Pythia, RedPajama-INCITE, Dolly: packed by heads, parallel or not, a part rotated."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import Layout, by_group
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

ROTATED = 0.25  # of a head
LAYOUT = Layout(
    prefix="gpt_neox.",
    token="gpt_neox.embed_in",
    layer="gpt_neox.layers.{}.",
    qkv="attention.query_key_value",
    unpack=by_group,
    proj="attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    final="gpt_neox.final_layer_norm",
    head="embed_out",
    ignored=(r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
)


def _config(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=True)
    config = replace(
        sizes(source, norm_eps=1e-5, gated=False),
        norm="layernorm",
        parallel=source.flag("use_parallel_residual", default=True),
        activation=activation(source, default="gelu"),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=True,
    )
    return alike(source, config, rotation_of(source, config.head_dim, partial=ROTATED))


FAMILIES = [Family("gpt_neox", "GPT-NeoX, Pythia, RedPajama-INCITE, Dolly", _config, LAYOUT)]
