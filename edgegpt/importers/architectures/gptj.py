"""GPT-J: attention and feed-forward in parallel after one norm, rotary by pairs, a head bias."""

from dataclasses import replace

from ...model import GPTConfig
from ...model.rotary import frequencies
from ..family import Family, activation, alike, sizes
from ..layout import Layout
from ..rope import Rotation
from ..settings import SourceSettings

__all__ = ["FAMILIES", "LAYOUT", "config_of"]

THETA = 10000.0
ROTATED = 64
LAYOUT = Layout(
    prefix="transformer.",
    token="transformer.wte",
    layer="transformer.h.{}.",
    norm_1="ln_1",
    norm_2="ln_1",
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    proj="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
    final="transformer.ln_f",
    paired_rotary=True,
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|causal_mask)",),
)


def config_of(source: SourceSettings) -> GPTConfig:
    """Return the settings of GPT-J and CodeGen."""
    source.must_be("rotary", True, why="the family has no other positions")
    source.must_be("scale_attn_weights", True, why="the family always scales its scores")
    config = replace(
        sizes(source, norm_eps=1e-5, gated=False),
        norm="layernorm",
        parallel=True,
        activation=activation(source, "activation_function", default="gelu_new"),
        ff_bias=True,
        head_bias=True,
    )
    rotated = source.whole("rotary_dim", default=ROTATED)
    if rotated % 2 or rotated > config.head_dim:
        raise source.error(
            f"rotary_dim is {rotated}, which is not an even part of the {config.head_dim} values "
            f"of a head"
        )
    return alike(source, config, Rotation(frequencies(THETA, rotated)))


FAMILIES = [Family("gptj", "GPT-J, GPT4All-J", config_of, LAYOUT)]
