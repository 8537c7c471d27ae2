"""XGLM: OPT's layers with a scaled embedding, and positions that are computed, not trained."""

import math
from dataclasses import replace

from torch import Tensor

from ...model import GPTConfig
from ..family import Family, activation, longest, sizes
from ..layout import Layout
from ..settings import SourceSettings
from ..sines import even_sines, within_reach

__all__ = ["FAMILIES"]

OFFSET = 2  # the sines of the first token are those of this position
LAYOUT = Layout(
    layer="model.layers.{}.",
    norm_1="self_attn_layer_norm",
    norm_2="final_layer_norm",
    proj="self_attn.out_proj",
    up="fc1",
    down="fc2",
    final="model.layer_norm",
    ignored=(r"(model\.)?embed_positions\.weights",),  # the sines, in files that keep them
)


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, tied=True, gated=False),
        norm="layernorm",
        norm_eps=1e-5,  # not a setting of this family
        position="learned",
        activation=activation(source, "activation_function", default="gelu"),
        qkv_bias=True,
        proj_bias=True,
        ff_bias=True,
    )
    within_reach(source, config.block_size, config.n_embd)
    scaled = source.flag("scale_embedding", default=True)
    return replace(config, embedding_scale=math.sqrt(config.n_embd)) if scaled else config


def _layout(source: SourceSettings) -> Layout:
    # The row of the padding's id is empty, although it is a position's. The usual id, 1, is below
    # the offset, as is that of no padding: null.
    empty = source.number("pad_token_id", default=1.0)
    rows = longest(source) + OFFSET
    if not (empty.is_integer() and -rows <= empty < rows):
        raise source.error(
            f"pad_token_id is {empty:g}, which is not one of the {rows} rows of the position table"
        )
    return replace(LAYOUT, position_table=lambda shape: _sines(shape, int(empty) % rows))


def _sines(shape: tuple[int, ...], empty: int) -> Tensor:
    """Return the table [positions, width]; `empty` is the row of zeros, with those before it."""
    table = even_sines(shape, OFFSET)
    if empty >= OFFSET:
        table[empty - OFFSET] = 0
    return table


FAMILIES = [Family("xglm", "XGLM", _config, _layout)]
