"""Small GGUF files, made from transformers' models as llama.cpp's conversion makes them.

Names of tensors come from the library's table, which is the conversion's own. What the conversion
does beside (`conversion/*.py` in llama.cpp) is written here once more, from that source, in its own
words: which settings each class writes, and how it changes tensors.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["ARCHITECTURES", "dequantised", "write_gguf"]

Setter = Callable[[gguf.GGUFWriter, dict[str, Any]], None]
Converter = Callable[[str, Tensor, dict[str, Any]], Tensor]


def _theta(config: dict[str, Any]) -> dict[str, Any]:
    parameters = config.get("rope_parameters") or {}
    return parameters.get("full_attention", parameters)


def _base(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """`TextModel.set_gguf_parameters`."""
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = _theta(config)
    if rope.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    if rope.get("rope_type") == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    if "rope_theta" in rope:
        writer.add_rope_freq_base(rope["rope_theta"])
    if local := (config.get("rope_parameters") or {}).get("sliding_attention"):
        writer.add_rope_freq_base_swa(local["rope_theta"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"):
        if name in config:
            writer.add_layer_norm_eps(config[name])
    if config.get("head_dim") is not None:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def _sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """What all classes write."""
    for names, add in (
        (("num_hidden_layers", "n_layer"), writer.add_block_count),
        (("max_position_embeddings", "n_positions"), writer.add_context_length),
        (("hidden_size", "n_embd"), writer.add_embedding_length),
        (("intermediate_size", "n_inner", "ffn_hidden_size"), writer.add_feed_forward_length),
        (("num_attention_heads", "n_head"), writer.add_head_count),
    ):
        found = [config[name] for name in names if config.get(name) is not None]
        if found:
            add(found[0])


def _rotated(config: dict[str, Any]) -> int:
    width = config["hidden_size"] // config["num_attention_heads"]
    return int(_theta(config)["partial_rotary_factor"] * width)


def _llama(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _base(writer, config)
    writer.add_vocab_size(config["vocab_size"])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(width)


def _granite(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _llama(writer, config)
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])
    if config["model_type"] == "granitemoehybrid":
        _dense_hybrid(writer, config)


def _dense_hybrid(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """`GraniteHybridModel.set_gguf_parameters`, of which dense models keep all keys."""
    width = config["mamba_expand"] * config["hidden_size"]
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_shared_feed_forward_length(config["shared_intermediate_size"])
    writer.add_ssm_conv_kernel(config["mamba_d_conv"])
    writer.add_ssm_state_size(config["mamba_d_state"])
    writer.add_ssm_group_count(config["mamba_n_groups"])
    writer.add_ssm_inner_size(width)
    writer.add_ssm_time_step_rank(config["mamba_n_heads"])
    writer.add_head_count_kv([config["num_key_value_heads"]] * config["num_hidden_layers"])
    writer.add_rope_scaling_finetuned(True)


def _gemma(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])


def _gemma2(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _gemma(writer, config)
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def _gemma3(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _base(writer, config)
    writer.add_sliding_window(config["sliding_window"])


def _phi2(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_rope_dimension_count(_rotated(config))


def _phi3(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = _theta(config)
    original, longest = rope["original_max_position_embeddings"], config["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(_rotated(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    if "long_factor" in rope:
        scale = longest / original
        factor = float(np.sqrt(1 + np.log(scale) / np.log(original))) if scale > 1 else 1.0
        writer.add_rope_scaling_attn_factors(factor)
        for size in ("long", "short"):
            factors = np.array(rope[f"{size}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{size}.weight", factors)


def _gpt2(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _sizes(writer, config)
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _neox(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _sizes(writer, config)
    writer.add_rope_dimension_count(_rotated(config))
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])


def _falcon(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    assert config["max_position_embeddings"] == 2048  # what is written, because some lack it
    _sizes(writer, config)
    writer.add_tensor_data_layout("jploski")
    writer.add_head_count_kv(config["num_kv_heads"] if config["new_decoder_architecture"] else 1)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _stablelm(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(_rotated(config))
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])


def _olmo2(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _base(writer, config)
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern(
            [kind == "sliding_attention" for kind in config["layer_types"]]
        )


def _cohere(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _base(writer, config)
    writer.add_logit_scale(config["logit_scale"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def _cohere2(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    _cohere(writer, config)
    writer.add_sliding_window(config["sliding_window"])
    writer.add_vocab_size(config["vocab_size"])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(width)


def _same(name: str, w: Tensor, config: dict[str, Any]) -> Tensor:
    return w


def _permuted(name: str, w: Tensor, config: dict[str, Any]) -> Tensor:
    """`LlamaModel.permute`."""
    counts = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for part, heads in counts.items():
        if name.endswith((f"{part}.weight", f"{part}.bias")):
            split = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
            return split.swapaxes(1, 2).reshape(w.shape)
    return w


def _norm_plus_1(name: str, w: Tensor, config: dict[str, Any]) -> Tensor:
    return w + 1 if name.endswith("norm.weight") else w


def _conv1d(name: str, w: Tensor, config: dict[str, Any]) -> Tensor:
    linear = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    return w.transpose(1, 0) if name.endswith(linear) else w


def _neox_qkv(name: str, w: Tensor, config: dict[str, Any]) -> Tensor:
    if "query_key_value" not in name:
        return w
    heads = config["num_attention_heads"]
    split = w.reshape(heads, 3, w.shape[0] // heads // 3, *w.shape[1:])
    return torch.cat([split[:, part].reshape(-1, *w.shape[1:]) for part in range(3)])


def _falcon_qkv(name: str, w: Tensor, config: dict[str, Any]) -> Tensor:
    if "query_key_value" not in name:
        return w
    heads = config["num_attention_heads"]
    kv_heads = config["num_kv_heads"] if config["new_decoder_architecture"] else 1
    width = config["hidden_size"] // heads
    qkv = w.view(kv_heads, heads // kv_heads + 2, width, width * heads)
    parts = (qkv[:, :-2], qkv[:, [-2]], qkv[:, [-1]])
    return torch.cat([part.reshape(-1, width * heads) for part in parts])


ARCHITECTURES: dict[str, tuple[gguf.MODEL_ARCH, Setter, Converter]] = {
    "llama": (gguf.MODEL_ARCH.LLAMA, _llama, _permuted),
    "smollm3": (gguf.MODEL_ARCH.SMOLLM3, _llama, _permuted),
    "granite": (gguf.MODEL_ARCH.GRANITE, _granite, _permuted),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, _base, _same),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, _base, _same),
    "gemma": (gguf.MODEL_ARCH.GEMMA, _gemma, _norm_plus_1),
    "gemma2": (gguf.MODEL_ARCH.GEMMA2, _gemma2, _norm_plus_1),
    "gemma3": (gguf.MODEL_ARCH.GEMMA3, _gemma3, _norm_plus_1),
    "phi2": (gguf.MODEL_ARCH.PHI2, _phi2, _same),
    "phi3": (gguf.MODEL_ARCH.PHI3, _phi3, _same),
    "gpt2": (gguf.MODEL_ARCH.GPT2, _gpt2, _conv1d),
    "gptneox": (gguf.MODEL_ARCH.GPTNEOX, _neox, _neox_qkv),
    "falcon": (gguf.MODEL_ARCH.FALCON, _falcon, _falcon_qkv),
    "starcoder2": (gguf.MODEL_ARCH.STARCODER2, _base, _same),
    "stablelm": (gguf.MODEL_ARCH.STABLELM, _stablelm, _same),
    "olmo2": (gguf.MODEL_ARCH.OLMO2, _olmo2, _same),
    "command-r": (gguf.MODEL_ARCH.COMMAND_R, _cohere, _same),
    "cohere2": (gguf.MODEL_ARCH.COHERE2, _cohere2, _same),
}


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    name: str,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    extra: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    **splitting: int,
) -> None:
    """Write `model` as a GGUF file of the architecture `name`; matrices are of the type `kind`.

    `extra` may write more, and `splitting` is for the writer.
    """
    number, set_parameters, convert = ARCHITECTURES[name]
    config = model.config.to_dict()
    writer = gguf.GGUFWriter(path, name, **splitting)
    set_parameters(writer, config)
    extra(writer)
    known = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    for own, tensor in _pieces(model):
        theirs = known.get_name(own, (".weight", ".bias"))
        assert theirs is not None, own
        values = convert(own, tensor.detach(), config).contiguous().numpy()
        if values.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(theirs, values)
        else:
            writer.add_tensor(theirs, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _pieces(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors; `GraniteMoeModel.modify_tensors` takes shared layers apart.

    A tied head occurs once, as the embedding.
    """
    for name, tensor in model.named_parameters():
        if "shared_mlp.input_linear" in name:
            for part, half in zip(("gate_proj", "up_proj"), tensor.chunk(2), strict=True):
                yield name.replace("shared_mlp.input_linear", f"mlp.{part}"), half
        else:
            yield name.replace("shared_mlp.output_linear", "mlp.down_proj"), tensor


def dequantised(model: PreTrainedModel, name: str, kind: GGMLQuantizationType) -> None:
    """Round the matrices of a model as a GGUF file of this type does.

    The conversion moves whole rows, which changes nothing, or transposes, as for GPT-2.
    """
    convert = _conv1d if name == "gpt2" else _same
    with torch.no_grad():
        for own, tensor in model.named_parameters():
            if tensor.dim() > 1:
                values = convert(own, tensor, {}).contiguous().numpy()
                rounded = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
                tensor.copy_(convert(own, torch.from_numpy(rounded), {}))
