"""nanochat: norms without weights, a norm on the embedding, a rotation the other way round."""

from dataclasses import replace

import torch
from torch import Tensor

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes, softcap
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

NORM_EPS = 1e-6


def _config(source: SourceSettings) -> GPTConfig:
    bias = source.flag("attention_bias", default=False)
    config = replace(
        sizes(source, norm_eps=NORM_EPS, gated=False),
        activation=activation(source, default="relu2"),
        qk_norm="head",
        logit_softcap=softcap(source, "final_logit_softcapping", default=15.0),
        qkv_bias=bias,
        proj_bias=bias,
    )
    if config.tie_embeddings:
        raise source.error("tie_word_embeddings is true, but only the embedding has a norm")
    rotation = rotation_of(source, config.head_dim)
    if rotation.factor != 1.0:
        raise source.error("its rotation has a factor, which the norms behind it would undo")
    return alike(source, config, rotation)


def _layout(source: SourceSettings) -> Layout:
    """Return the layout; a norm of each row of the embedding is the same as one of the stream.

    Queries and keys are normalised after the rotation, which leaves their mean square as it is, so
    that norms without weights may come before it.
    """
    eps = source.number("rms_norm_eps", default=NORM_EPS)

    def normalised(table: Tensor) -> Tensor:
        rows = table.float()  # (V, C)
        return rows * torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + eps)

    return Layout(
        norm_1=None,
        norm_2=None,
        q_norm=None,
        k_norm=None,
        final=None,
        up="mlp.fc1",
        down="mlp.fc2",
        table_change=normalised,
        qk_change=_swapped,
    )


def _swapped(x: Tensor) -> Tensor:
    """Swap the halves of heads [heads, D, ...], which turns their rotation round."""
    return torch.cat(x.chunk(2, dim=1)[::-1], dim=1)


FAMILIES = [Family("nanochat", "nanochat", _config, _layout)]
