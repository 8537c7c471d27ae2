"""XGLM: OPT's layers with a scaled embedding, and positions that are computed, not trained."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...model import GPTConfig
from ..family import Family, activation, longest, sizes
from ..layout import Layout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

BASE = 10000.0
OFFSET = 2  # the sines of the first token are those of this position
LONGEST = 1 << 16  # the table is not in the file, so that no header contradicts a damaged setting
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
    if config.n_embd < 4:
        raise source.error(f"d_model is {config.n_embd}: sines of two frequencies need 4")
    if config.block_size > LONGEST:
        raise source.error(
            f"max_position_embeddings is {config.block_size}, which cannot be right; import "
            f"computes up to {LONGEST} positions"
        )
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
    """Return the table [positions, width]: sines, then cosines, then 0 in an odd width.

    The angles are those of tensor2tensor (Vaswani et al. 2018), which has them in this order.
    `empty` is the row of zeros, counted from `OFFSET` rows before the first.
    """
    positions, width = shape
    half = width // 2
    steps = torch.arange(half).float() * -(math.log(BASE) / (half - 1))
    angles = torch.arange(OFFSET, positions + OFFSET).float()[:, None] * steps.exp()  # (P, half)
    table = torch.zeros(positions, width)
    table[:, : 2 * half] = torch.cat([angles.sin(), angles.cos()], dim=1)
    if empty >= OFFSET:
        table[empty - OFFSET] = 0
    return table


FAMILIES = [Family("xglm", "XGLM", _config, _layout)]
