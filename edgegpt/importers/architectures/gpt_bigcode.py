"""GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one key/value head, and usual linear layers."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family
from ..layout import by_group
from ..settings import SourceSettings
from . import gpt2

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> GPTConfig:
    config = gpt2.config_of(source, "gelu_pytorch_tanh")
    multi_query = source.flag("multi_query", default=True)
    # Types of intermediate values, and settings of a server that is no more.
    source.ignore("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    source.ignore("inference_runner", "max_batch_size", "pad_key_length", "pre_allocate_kv_cache")
    source.ignore("validate_runner_input")
    return replace(config, n_kv_head=1 if multi_query else config.n_head)


FAMILIES = [
    Family(
        "gpt_bigcode",
        "SantaCoder, StarCoder",
        _config,
        replace(gpt2.LAYOUT, transposed=False, unpack=by_group),
    )
]
