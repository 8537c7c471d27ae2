"""What llama.cpp's conversion made of each family of models, so that it can be undone.

GGUF files are written by llama.cpp's `convert_hf_to_gguf.py` (its classes are in `conversion/`).
It renames settings and tensors, leaves out settings that llama.cpp has as constants of the
architecture, and changes some tensors: these tables say which. An architecture that is not listed
is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..settings import SourceSettings
from .header import Header

__all__ = ["ARCHITECTURES", "Architecture", "Undo"]

# The inverse of a change: of a tensor with so many heads of queries, and of keys and values.
Undo = Callable[[Tensor, int, int], Tensor]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One architecture of GGUF, by the value of `general.architecture`.

    Attributes:
        name: in GGUF.
        family: the `model_type` of the same models in Hugging Face's config.json.
        keys: settings beyond those that all have, with their names in config.json.
        fixed: settings that the architecture implies.
        told_by: settings that are true if the file has the tensor.
        undo: by patterns of the names of tensors in GGUF, the inverse of the conversion's change.
        transposed: a pattern of tensors that were transposed.
        more: further settings, which depend on several others.
    """

    name: str
    family: str
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    told_by: Mapping[str, str] = field(default_factory=dict)
    undo: Mapping[str, Undo] = field(default_factory=dict)
    transposed: str | None = None
    more: Callable[[SourceSettings, Header], Settings] = lambda keys, header: {}


def _pairs_apart(w: Tensor, heads: int) -> Tensor:
    """Return rows [heads * D, ...] with the pair (2i, 2i + 1) of each head at (i, i + D / 2)."""
    pairs: Tensor = w.unflatten(0, (heads, -1, 2))  # (heads, D / 2, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2)  # (heads * D, ...)


# `LlamaModel.permute`: its rotation takes neighbours where Hugging Face takes halves.
PERMUTED: Mapping[str, Undo] = {
    r"blk\.\d+\.attn_q\.(weight|bias)": lambda w, heads, kv_heads: _pairs_apart(w, heads),
    r"blk\.\d+\.attn_k\.(weight|bias)": lambda w, heads, kv_heads: _pairs_apart(w, kv_heads),
}
# `GemmaModel.modify_tensors` adds 1 to each norm. The difference is exact from 1/2 on.
NORM_PLUS_1: Mapping[str, Undo] = {r".*norm\.weight": lambda w, heads, kv_heads: w.float() - 1}


def _neox_groups(w: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Return queries, keys and values [3 * heads * D, ...], head by head."""
    parts: Tensor = w.unflatten(0, (3, heads, -1))  # (3, heads, D, ...)
    return parts.transpose(0, 1).flatten(0, 2)  # (heads * 3 * D, ...)


def _falcon_groups(w: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Return queries, keys and values [(heads + 2 * kv_heads) * D, ...], kv head by kv head."""
    parts = w.unflatten(0, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads])
    grouped = [part.unflatten(0, (kv_heads, -1)) for part in parts]  # (kv_heads, each, D, ...)
    return torch.cat(grouped, dim=1).flatten(0, 2)  # (kv_heads * (each + 2) * D, ...)


BIASES = {"attention_bias": "blk.0.attn_output.bias", "mlp_bias": "blk.0.ffn_up.bias"}
SILU = {"hidden_act": "silu"}
GEMMA_GELU = {"hidden_activation": "gelu_pytorch_tanh"}
WINDOW = {"attention.sliding_window": "sliding_window"}
SOFTCAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
PARALLEL = {"use_parallel_residual": "use_parallel_residual"}


def _gemma_scale(layers_of_largest: int) -> Callable[[SourceSettings, Header], Settings]:
    """Return the scale of the scores, which GGUF lacks: that of the largest model is different.

    llama.cpp tells it by its number of layers (`f_attention_scale` in src/llama-model.cpp).
    """

    def settings(keys: SourceSettings, header: Header) -> Settings:
        width = keys.whole("attention.key_length")
        if keys.whole("block_count") == layers_of_largest:
            width = keys.whole("embedding_length") // keys.whole("attention.head_count")
        return {"query_pre_attn_scalar": width}

    return settings


def _gemma3(keys: SourceSettings, header: Header) -> Settings:
    """Layers with a window rotate by a base of their own, and no others are scaled."""
    local = keys.number("rope.freq_base_swa", default=10000.0)
    return {**_gemma_scale(62)(keys, header), "rope_local_base_freq": local}


def _partial(keys: SourceSettings, header: Header) -> Settings:
    """How much of a head is rotated must be said: llama.cpp's default is not that of the family."""
    keys.whole("rope.dimension_count")
    return {}


def _phi3(keys: SourceSettings, header: Header) -> Settings:
    """A window of 0 means none; files before July 2024 do not say whether there is one."""
    _partial(keys, header)
    window = keys.number("attention.sliding_window")
    original = keys.whole("rope.scaling.original_context_length")
    return {"sliding_window": int(window) or None, "original_max_position_embeddings": original}


def _olmo(keys: SourceSettings, header: Header) -> Settings:
    """OLMo 3 is OLMo 2 with windows."""
    listed = keys.listed("attention.sliding_window_pattern")
    if listed is None:
        return {}
    base = keys.number("rope.freq_base")
    keys.must_be("rope.freq_base_swa", base, why=f"other layers have the base {base}")
    kinds = ["sliding_attention" if own else "full_attention" for own in listed]
    return {
        "model_type": "olmo3",
        "sliding_window": keys.whole("attention.sliding_window"),
        "layer_types": kinds,
    }


def _falcon(keys: SourceSettings, header: Header) -> Settings:
    """Falcon 7B has one head of keys and values and one norm a layer, Falcon 40B several."""
    kv_heads = keys.whole("attention.head_count_kv", default=1)
    keys.must_be("tensor_data_layout", "jploski", why="its queries are in an unknown order")
    return {
        "new_decoder_architecture": kv_heads > 1,
        "multi_query": kv_heads == 1,
        "num_kv_heads": kv_heads,
        "num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in header.tensors else 1,
        "parallel_attn": True,
    }


def _granite(keys: SourceSettings, header: Header) -> Settings:
    """Granite's files say by this key whether there is a rotation.

    Those of dense Granite 4 tell sizes of parts, too, that only its relatives have.
    """
    keys.must_be("rope.scaling.finetuned", True, why="it has no positions")
    keys.ignore("expert_shared_feed_forward_length")
    parts = "conv_kernel group_count inner_size state_size time_step_rank"
    keys.ignore(*(f"ssm.{part}" for part in parts.split()))
    return {}


ARCHITECTURES = {
    own.name: own
    for own in (
        Architecture("llama", "llama", fixed=SILU, told_by=BIASES, undo=PERMUTED),
        Architecture("smollm3", "smollm3", fixed=SILU, told_by=BIASES, undo=PERMUTED),
        Architecture(
            "granite",
            "granite",
            keys={
                "attention.scale": "attention_multiplier",
                "embedding_scale": "embedding_multiplier",
                "residual_scale": "residual_multiplier",
                "logit_scale": "logits_scaling",
            },
            fixed=SILU,
            told_by=BIASES,
            undo=PERMUTED,
            more=_granite,
        ),
        Architecture("qwen2", "qwen2", fixed=SILU | {"use_sliding_window": False}),
        Architecture(
            "qwen3",
            "qwen3",
            fixed=SILU | {"use_sliding_window": False},
            told_by={"attention_bias": "blk.0.attn_output.bias"},
        ),
        Architecture("gemma", "gemma", fixed=GEMMA_GELU, undo=NORM_PLUS_1),
        Architecture(
            "gemma2",
            "gemma2",
            keys=WINDOW | SOFTCAPS,
            fixed=GEMMA_GELU,
            undo=NORM_PLUS_1,
            more=_gemma_scale(46),
        ),
        Architecture(
            "gemma3",
            "gemma3_text",
            keys=WINDOW | SOFTCAPS,
            fixed=GEMMA_GELU,
            undo=NORM_PLUS_1,
            more=_gemma3,
        ),
        Architecture("phi2", "phi", fixed={"hidden_act": "gelu_new"}, more=_partial),
        Architecture("phi3", "phi3", fixed=SILU, more=_phi3),
        Architecture(
            "gpt2",
            "gpt2",
            fixed={"activation_function": "gelu_new"},
            transposed=r"blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight",
        ),
        Architecture(
            "gptneox",
            "gpt_neox",
            keys=PARALLEL,
            fixed={"hidden_act": "gelu"},
            undo={r"blk\.\d+\.attn_qkv\.(weight|bias)": _neox_groups},
            more=_partial,
        ),
        Architecture(
            "falcon",
            "falcon",
            undo={r"blk\.\d+\.attn_qkv\.weight": _falcon_groups},
            fixed={"alibi": False, "bias": False},
            more=_falcon,
        ),
        Architecture(
            "starcoder2",
            "starcoder2",
            fixed={"hidden_act": "gelu_pytorch_tanh", "sliding_window": None},
            told_by={"use_bias": "blk.0.attn_q.bias"},
        ),
        Architecture(
            "stablelm",
            "stablelm",
            keys=PARALLEL,
            fixed=SILU,
            told_by={
                "use_qkv_bias": "blk.0.attn_q.bias",
                "qk_layernorm": "blk.0.attn_q_norm.weight",
            },
            more=_partial,
        ),
        Architecture(
            "olmo2",
            "olmo2",
            fixed=SILU,
            told_by={"attention_bias": "blk.0.attn_output.bias"},
            more=_olmo,
        ),
        Architecture(
            "command-r",
            "cohere",
            keys={"logit_scale": "logit_scale"},
            fixed=SILU,
            told_by={"use_qk_norm": "blk.0.attn_q_norm.weight"},
        ),
        Architecture(
            "cohere2", "cohere2", keys=WINDOW | {"logit_scale": "logit_scale"}, fixed=SILU
        ),
    )
}
