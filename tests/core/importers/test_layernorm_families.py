"""Families with LayerNorm: imported, they compute what transformers computes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny_checkpoints import LIMIT, SIZES, error, imported, same_greedy_text, save_tiny

from edgegpt.errors import CheckpointError
from edgegpt.importers.architectures import FAMILIES, REFUSED
from edgegpt.importers.run import look
from edgegpt.importers.source import Source
from edgegpt.importers.tensors import PickledTensors

WINDOW = 8
# The sizes under the names of other families.
ALL_HEADS = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
NO_WIDTH = {name: value for name, value in ALL_HEADS.items() if name != "intermediate_size"}
GPT_2: dict[str, Any] = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT_NEO: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 4,
    "max_position_embeddings": 128,
    "window_size": WINDOW,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WHOLE_HEAD = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
CASES = {
    "gpt2": hf.GPT2Config(**GPT_2),
    "gpt2 scaled by layer": hf.GPT2Config(
        **GPT_2, n_inner=48, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
    ),
    "gpt2 unscaled": hf.GPT2Config(
        **GPT_2, scale_attn_weights=False, activation_function="gelu", tie_word_embeddings=False
    ),
    "gpt_bigcode": hf.GPTBigCodeConfig(**GPT_2),
    "gpt_bigcode with all heads": hf.GPTBigCodeConfig(**GPT_2, multi_query=False),
    "gpt_neo": hf.GPTNeoConfig(**GPT_NEO, attention_types=[[["global", "local"], 2]]),
    "gpt_neo, other order": hf.GPTNeoConfig(
        **GPT_NEO, attention_types=[[["local"], 3], [["global"], 1]], intermediate_size=48
    ),
    "gptj": hf.GPTJConfig(**GPT_2, rotary_dim=4),
    "codegen": hf.CodeGenConfig(**{**GPT_2, "n_head": 8, "n_embd": 64}, rotary_dim=4),
    "gpt_neox": hf.GPTNeoXConfig(**ALL_HEADS),
    "gpt_neox, sequential": hf.GPTNeoXConfig(
        **ALL_HEADS, use_parallel_residual=False, rope_parameters=WHOLE_HEAD
    ),
    "opt": hf.OPTConfig(**NO_WIDTH, ffn_dim=48),
    "galactica": hf.OPTConfig(
        **NO_WIDTH,
        ffn_dim=48,
        activation_function="gelu",
        enable_bias=False,
        layer_norm_elementwise_affine=False,
    ),
    "biogpt": hf.BioGptConfig(**ALL_HEADS),
    "biogpt, embedding unscaled": hf.BioGptConfig(**ALL_HEADS, scale_embedding=False),
    "phi": hf.PhiConfig(**SIZES),
    "falcon 7b": hf.FalconConfig(**NO_WIDTH, ffn_hidden_size=48),
    "falcon 40b": hf.FalconConfig(**NO_WIDTH, new_decoder_architecture=True, num_kv_heads=2),
    "falcon2 11b": hf.FalconConfig(
        **NO_WIDTH, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1
    ),
    "falcon, sequential with all heads and biases": hf.FalconConfig(
        **NO_WIDTH, multi_query=False, parallel_attn=False, bias=True
    ),
    "starcoder2": hf.Starcoder2Config(**SIZES, sliding_window=WINDOW),
    "starcoder2 without biases": hf.Starcoder2Config(
        **SIZES, use_bias=False, tie_word_embeddings=False
    ),
    "stablelm": hf.StableLmConfig(**SIZES),
    "stablelm, parallel": hf.StableLmConfig(**SIZES, use_parallel_residual=True, use_qkv_bias=True),
    "cohere": hf.CohereConfig(**SIZES),
    "cohere with biases": hf.CohereConfig(**SIZES, attention_bias=True, logit_scale=0.3),
    "cohere2": hf.Cohere2Config(**{**SIZES, "num_hidden_layers": 4}, sliding_window=WINDOW),
    "nemotron": hf.NemotronConfig(**SIZES),
    "nemotron with biases": hf.NemotronConfig(
        **SIZES, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "jais2": hf.Jais2Config(**SIZES),
    "olmo": hf.OlmoConfig(**SIZES),
    "olmo, tied with biases": hf.OlmoConfig(**SIZES, attention_bias=True, tie_word_embeddings=True),
}


@pytest.mark.parametrize("name", list(CASES))
def test_an_imported_model_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert same_greedy_text(theirs, ours)
    assert found.notes == []


WIDE_HEADS = {
    "gpt_neox": hf.GPTNeoXConfig(**{**ALL_HEADS, "num_attention_heads": 1}),  # 4 of 16 angles
    "gptj": hf.GPTJConfig(**{**GPT_2, "n_head": 1}, rotary_dim=10),
}


@pytest.mark.parametrize("name", list(WIDE_HEADS))
def test_idle_angles_make_their_number_a_multiple_of_8(tmp_path: Path, name: str) -> None:
    theirs = save_tiny(WIDE_HEADS[name], tmp_path / "source")
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert {len(kind.rotary) for kind in ours.config.kinds} == {8}


# The settings that the files on the Hub carry, beside the sizes; None removes what
# transformers 5 wrote.
SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
HUB = {
    "distilgpt2": (
        hf.GPT2Config(**GPT_2),
        {
            **SUMMARY,
            "_num_labels": 1,
            "n_ctx": 1024,
            "n_inner": None,
            "scale_attn_weights": None,
            "scale_attn_by_inverse_layer_idx": None,
            "reorder_and_upcast_attn": None,
            "tie_word_embeddings": None,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
    ),
    "starcoder": (
        hf.GPTBigCodeConfig(**GPT_2),
        {
            **SUMMARY,
            "num_key_value_heads": None,
            "tie_word_embeddings": None,
            "inference_runner": 0,
            "pad_key_length": True,
            "pre_allocate_kv_cache": False,
            "validate_runner_input": True,
        },
    ),
    "gpt-neo-125m": (
        hf.GPTNeoConfig(**{**GPT_NEO, "attention_types": [[["global", "local"], 2]]}),
        {**SUMMARY, "gradient_checkpointing": False, "attention_layers": ["global", "local"] * 2},
    ),
    "gpt-j-6b": (
        hf.GPTJConfig(**GPT_2, rotary_dim=4),
        {**SUMMARY, "gradient_checkpointing": False, "rotary": True, "scale_attn_weights": True},
    ),
    "codegen-350m": (
        hf.CodeGenConfig(**GPT_2, rotary_dim=4),
        {**SUMMARY, "gradient_checkpointing": False, "n_ctx": 2048, "scale_attn_weights": True},
    ),
    "pythia": (
        hf.GPTNeoXConfig(**ALL_HEADS),
        {"rope_parameters": None, "rotary_emb_base": 10000, "rotary_pct": 0.25},
    ),
    "redpajama": (
        hf.GPTNeoXConfig(**ALL_HEADS, use_parallel_residual=False, rope_parameters=WHOLE_HEAD),
        {"rope_parameters": None, "rotary_emb_base": 10000, "rotary_pct": 1.0},
    ),
    "opt-125m": (
        hf.OPTConfig(**NO_WIDTH, ffn_dim=48),
        {
            "_remove_final_layer_norm": False,
            "activation_dropout": 0.0,
            "do_layer_norm_before": True,
            "prefix": "</s>",
            "word_embed_proj_dim": 32,
            "enable_bias": None,
            "layer_norm_elementwise_affine": None,
            "tie_word_embeddings": None,
        },
    ),
    "phi-2": (
        hf.PhiConfig(**SIZES, rope_parameters={**WHOLE_HEAD, "partial_rotary_factor": 0.75}),
        {
            "rope_parameters": None,
            "partial_rotary_factor": 0.75,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "auto_map": {"AutoModelForCausalLM": "modeling_phi.PhiForCausalLM"},
        },
    ),
    "falcon-7b": (
        hf.FalconConfig(**{**NO_WIDTH, "max_position_embeddings": 2048}),
        {
            "rope_parameters": None,
            "max_position_embeddings": None,
            "ffn_hidden_size": None,
            "num_kv_heads": None,
            "num_ln_in_parallel_attn": None,
            "activation": None,
            "tie_word_embeddings": None,
            "apply_residual_connection_post_layernorm": False,
            "auto_map": {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"},
        },
    ),
    "starcoder2-3b": (
        hf.Starcoder2Config(**SIZES, sliding_window=WINDOW, rope_parameters=LINEAR),
        {
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "linear", "factor": 2.0},
            "mlp_type": "default",
            "norm_type": "layer_norm",
            "tie_word_embeddings": None,
        },
    ),
    "stablelm-2": (
        hf.StableLmConfig(**SIZES, use_qkv_bias=True),
        {"rope_parameters": None, "rope_theta": 10000, "partial_rotary_factor": 0.25},
    ),
    "command-r": (
        hf.CohereConfig(**SIZES, rope_parameters={**WHOLE_HEAD, "rope_theta": 8e6}),
        {
            "rope_parameters": None,
            "rope_theta": 8000000.0,
            "model_max_length": 131072,
            "pretraining_tp": 1,
            "tie_word_embeddings": None,
        },
    ),
    "command-r7b": (
        hf.Cohere2Config(**{**SIZES, "num_hidden_layers": 4}, sliding_window=WINDOW),
        {
            "rope_parameters": None,
            "rope_theta": 10000,
            "layer_types": None,
            "cache_implementation": "hybrid",
            "layer_switch": 4,
            "order_of_interleaved_layers": "local_attn_first",
            "position_embedding_type": "rope_gptj",
            "rotary_pct": 1.0,
            "sliding_window_pattern": 4,
            "use_embedding_sharing": True,
            "use_gated_activation": True,
            "use_parallel_block": True,
            "use_parallel_embedding": False,
            "use_qk_norm": False,
        },
    ),
    "minitron": (
        hf.NemotronConfig(**SIZES),
        {"rope_parameters": None, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    "olmo-1b": (
        hf.OlmoConfig(**SIZES, tie_word_embeddings=True),
        {"rope_parameters": None, "rope_theta": 10000.0, "clip_qkv": None, "pretraining_tp": 1},
    ),
}


@pytest.mark.parametrize("name", list(HUB))
def test_settings_as_the_hub_has_them_mean_the_same(tmp_path: Path, name: str) -> None:
    config, changes = HUB[name]
    theirs = save_tiny(config, tmp_path / "source", changes)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


KEPT = {*SIZES, *GPT_2, *GPT_NEO, "model_type", "attention_types", "rotary_dim", "sliding_window"}
KEPT |= {"ffn_dim", "ffn_hidden_size"}
# The cases that leave everything but the sizes to their family.
DEFAULTS = {
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "codegen",
    "gpt_neox",
    "opt",
    "biogpt",
    "phi",
    "stablelm",
    "falcon 7b",
    "starcoder2",
    "cohere",
    "cohere2",
    "nemotron",
    "jais2",
    "olmo",
}


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_setting_that_is_absent_has_the_default_of_its_family(tmp_path: Path, name: str) -> None:
    absent = dict.fromkeys(CASES[name].to_dict().keys() - KEPT)
    theirs = save_tiny(CASES[name], tmp_path / "source", absent)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert ours.config.norm_eps == 1e-5


def _rename(folder: Path, prefix: str, extra: list[str]) -> None:
    """Save the weights without `prefix`, and with `extra` tensors that hold nothing trained."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix(prefix): value for name, value in load_file(path).items()}
    save_file(tensors | {name: torch.ones(1, 1, 4, 4).tril() for name in extra}, path)


@pytest.mark.parametrize(
    ("name", "prefix", "extra"),
    [
        ("gpt2", "transformer.", ["h.0.attn.bias", "h.2.attn.masked_bias"]),
        ("gpt2", "", ["transformer.h.0.attn.bias"]),
        ("gpt_neo", "", ["transformer.h.1.attn.attention.bias"]),
        ("gptj", "", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("codegen", "", ["transformer.h.0.attn.causal_mask"]),
        (
            "gpt_neox",
            "",
            [
                "gpt_neox.layers.0.attention.bias",
                "gpt_neox.layers.0.attention.masked_bias",
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
            ],
        ),
        ("opt", "model.", []),
        ("falcon 7b", "", ["transformer.h.0.self_attention.rotary.inv_freq"]),
    ],
)
def test_names_of_tensors_as_the_hub_has_them_are_known(
    tmp_path: Path, name: str, prefix: str, extra: list[str]
) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    _rename(tmp_path / "source", prefix, extra)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


def test_a_mask_where_the_family_has_none_is_refused(tmp_path: Path) -> None:
    save_tiny(CASES["phi"], tmp_path / "source")
    _rename(tmp_path / "source", "", ["model.layers.0.self_attn.bias"])
    with pytest.raises(CheckpointError, match=r"nothing in the model takes .*self_attn\.bias"):
        imported(tmp_path / "source", tmp_path / "checkpoint")


def _settings(name: str, **changes: object) -> Source:
    """Return a source with the settings of a case and no tensors."""
    settings = {**CASES[name].to_dict(), **changes}
    return Source("tiny", settings, "config.json", PickledTensors({}, Path("model.bin")))


@pytest.mark.parametrize(
    ("name", "setting", "value", "reason"),
    [
        ("gpt2", "add_cross_attention", True, "it attends to an encoder"),
        ("gpt2", "activation_function", "quick_gelu", "the activation 'quick_gelu' is not known"),
        ("gpt2", "hidden_size", 64, "hidden_size is 64, but n_embd 32"),
        ("gpt2", "n_inner", 0, "n_inner is 0, which is not a whole number of 1 or more"),
        ("gpt2", "scale_attn_by_head", True, "the setting scale_attn_by_head is not known"),
        ("gpt_neo", "attention_layers", ["global"], "for each of the 4 layers"),
        ("gpt_neo", "attention_layers", ["global", "block"] * 2, "not global or local"),
        ("gptj", "rotary", False, "no other positions"),
        ("gptj", "rotary_dim", 64, "rotary_dim is 64, which is not an even part"),
        ("codegen", "n_head", 2, "2 heads are not a multiple of 4"),
        ("gpt_neox", "rope_parameters", {"rope_type": "fire"}, "the rope type 'fire' is not known"),
        ("opt", "do_layer_norm_before", False, "norms after the additions"),
        ("opt", "word_embed_proj_dim", 16, "projects its embedding"),
        ("opt", "_remove_final_layer_norm", True, "lacks the norm before the head"),
        ("opt", "learned_embeddings", False, "positions are not in the weights"),
        ("phi", "qk_layernorm", True, "normalises queries and keys by LayerNorm"),
        ("falcon 7b", "alibi", True, "ALiBi"),
        ("falcon 7b", "apply_residual_connection_post_layernorm", True, "normalised stream"),
        ("falcon 7b", "num_ln_in_parallel_attn", 2, "no such norms"),
        ("starcoder2", "mlp_type", "gated", "without a gate"),
        ("starcoder2", "norm_type", "rms_norm", "only LayerNorm"),
        ("stablelm", "qk_layernorm", True, "normalises queries and keys by LayerNorm"),
        ("cohere", "use_qk_norm", True, "normalises queries and keys by LayerNorm"),
        ("cohere2", "sliding_window", None, "would leave the model without positions"),
        ("cohere2", "use_parallel_block", False, "known with True only"),
        ("cohere2", "layer_types", ["chunked_attention"] * 4, "not a known type of attention"),
        ("olmo", "clip_qkv", 8.0, "clips queries, keys and values"),
    ],
)
def test_what_the_model_cannot_compute_is_refused_by_name(
    name: str, setting: str, value: object, reason: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        look(_settings(name, **{setting: value}))
    message = str(caught.value)
    assert message.startswith("config.json: ")
    assert reason in message
    assert re.search(setting.split("_")[0], message)


@pytest.mark.parametrize("types", [[[["global"], 10**15]], [["global", "local"]], [7]])
def test_hostile_types_of_attention_are_refused_at_once(types: object) -> None:
    with pytest.raises(CheckpointError, match="not a list and how often"):
        look(_settings("gpt_neo", attention_layers=None, attention_types=types))


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mixtral", "mixture of experts"),
        ("bloom", "ALiBi"),
        ("mamba", "a state that is not a cache"),
        ("persimmon", "LayerNorm"),
        ("bert", "does not generate text"),
        ("t5", "encoder-decoder"),
        ("llava", "only models of text"),
    ],
)
def test_a_known_family_that_cannot_be_imported_is_refused_with_its_reason(
    model_type: str, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=f"cannot import the family {model_type}: .*{reason}"):
        look(_settings("olmo", model_type=model_type))


def test_no_family_is_refused_and_known_at_once() -> None:
    assert not set(FAMILIES) & set(REFUSED)
