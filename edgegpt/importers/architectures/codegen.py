"""CodeGen: GPT-J with queries, values and keys packed for the four chips that trained it."""

from dataclasses import replace

import torch
from torch import Tensor

from ...model import GPTConfig
from ..family import Family
from ..settings import SourceSettings
from . import gptj

__all__ = ["FAMILIES"]

CHIPS = 4


def _config(source: SourceSettings) -> GPTConfig:
    source.ignore("n_ctx")  # nothing reads it
    config = gptj.config_of(source)
    if config.n_head % CHIPS:
        raise source.error(f"{config.n_head} heads are not a multiple of {CHIPS}")
    return config


def _unpack(w: Tensor, config: GPTConfig) -> Tensor:
    """Sort the rows [3 * C, C], which are queries, values and keys of a chip after the other."""
    q, v, k = w.unflatten(0, (CHIPS, 3, -1)).unbind(1)  # each (CHIPS, C / CHIPS, C)
    return torch.cat([part.flatten(0, 1) for part in (q, k, v)])


FAMILIES = [
    Family(
        "codegen",
        "CodeGen (mono, multi, nl)",
        _config,
        replace(gptj.LAYOUT, qkv="attn.qkv_proj", unpack=_unpack),
    )
]
