"""The settings files of models on the hub mean what transformers reads in them.

The documents are those of the models that they are named for, with smaller sizes, fewer layers and
shorter lists; names, kinds of values and nulls are as they stand there. A `...` takes a common
setting out.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import LIMIT, error, imported, save_tiny
from transformers import AutoConfig

FULL, SLIDING = "full_attention", "sliding_attention"
COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 97,
}
LLAMA_3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 16,
    "rope_type": "llama3",
}
QWEN = {
    "hidden_act": "silu",
    "max_window_layers": 3,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
GEMMA = {"head_dim": 16, "pad_token_id": 0, "rms_norm_eps": 1e-06, "attention_bias": False}
GEMMA_3 = {
    **GEMMA,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 16,
}
PHI_3 = {
    "attention_bias": False,
    "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
    "embd_pdrop": 0.0,
    "eos_token_id": 90,
    "hidden_act": "silu",
    "model_type": "phi3",
    "num_key_value_heads": 4,
    "pad_token_id": 90,
    "resid_pdrop": 0.0,
}
DOCUMENTS = {
    "TinyLlama-1.1B-Chat": {
        "hidden_act": "silu",
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "attention_bias": False,
    },
    "Llama-3.2-1B": {
        "attention_bias": False,
        "eos_token_id": [2, 3, 4],
        "head_dim": 8,
        "hidden_act": "silu",
        "mlp_bias": False,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": LLAMA_3,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    "SmolLM2-135M": {
        "attention_bias": False,
        "hidden_act": "silu",
        "is_llama_config": True,
        "mlp_bias": False,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_interleaved": False,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    },
    "Qwen2.5-0.5B": {**QWEN, "model_type": "qwen2", "sliding_window": 64, "use_mrope": False},
    "Qwen3-0.6B": {
        **QWEN,
        "attention_bias": False,
        "head_dim": 16,
        "model_type": "qwen3",
        "rope_scaling": None,
        "sliding_window": None,
    },
    "Mistral-7B-v0.1": {
        "hidden_act": "silu",
        "model_type": "mistral",
        "sliding_window": 16,
        "tie_word_embeddings": False,
    },
    "Mistral-7B-v0.3": {
        "hidden_act": "silu",
        "model_type": "mistral",
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "SmolLM3-3B": {
        "attention_bias": False,
        "bos_token_id": None,
        "hidden_act": "silu",
        "layer_types": [FULL] * 4,
        "max_window_layers": 28,
        "mlp_bias": False,
        "model_type": "smollm3",
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "gemma-2b": {
        **GEMMA,
        "hidden_act": "gelu",
        "model_type": "gemma",
        "num_key_value_heads": 1,
        "rope_scaling": None,
    },
    "gemma-2-2b": {
        **GEMMA,
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "model_type": "gemma2",
        "query_pre_attn_scalar": 256,
        "sliding_window": 16,
    },
    "gemma-2-9b": {
        **GEMMA,
        "_attn_implementation": "eager",
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "model_type": "gemma2",
        "query_pre_attn_scalar": 256,
        "sliding_window": 16,
        "sliding_window_size": 16,
    },
    "gemma-3-1b-it": {**GEMMA_3, "sliding_window_pattern": 6},
    "gemma-3-270m": {
        **GEMMA_3,
        "_sliding_window_pattern": 6,
        "layer_types": [SLIDING] * 5 + [FULL, SLIDING],
        "use_bidirectional_attention": False,
    },
    "gemma-3 scaled": {
        **GEMMA_3,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window_pattern": 2,
    },
    "Phi-3-mini-4k": {
        **PHI_3,
        "original_max_position_embeddings": 128,
        "rope_scaling": None,
        "sliding_window": 47,
        "tie_word_embeddings": False,
    },
    "Phi-3-mini-128k": {
        **PHI_3,
        "original_max_position_embeddings": 64,
        "rope_scaling": {
            "long_factor": [1.0, 1.1, 1.3, 4.1],
            "short_factor": [1.0, 1.05, 1.1, 1.2],
            "type": "longrope",
        },
        "sliding_window": 262144,
        "tie_word_embeddings": False,
    },
    "Phi-4-mini": {
        **PHI_3,
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
        "num_key_value_heads": 2,
        "original_max_position_embeddings": 64,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "long_factor": [1, 1.118320672, 1.250641126],
            "short_factor": [1.0, 1.0, 1.0],
            "type": "longrope",
        },
        "sliding_window": 262144,
        "tie_word_embeddings": True,
    },
    "granite-3.3-2b": {
        "attention_bias": False,
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "hidden_act": "silu",
        "logits_scaling": 8.0,
        "mlp_bias": False,
        "model_type": "granite",
        "residual_multiplier": 0.22,
        "rope_scaling": None,
        "rope_theta": 10000000.0,
        "tie_word_embeddings": True,
    },
    "OLMo-2-0425-1B": {
        "attention_bias": False,
        "hidden_act": "silu",
        "model_type": "olmo2",
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
    },
    "Olmo-3-7B": {
        "attention_bias": False,
        "hidden_act": "silu",
        "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
        "model_type": "olmo3",
        "num_key_value_heads": 4,
        "rope_scaling": {
            "attention_factor": 1.2079441541679836,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 8.0,
            "original_max_position_embeddings": 16,
            "rope_type": "yarn",
        },
        "rope_theta": 500000,
        "sliding_window": 16,
        "tie_word_embeddings": False,
    },
    "EXAONE-3.5-2.4B": {
        "activation_function": "silu",
        "auto_map": {"AutoModelForCausalLM": "modeling_exaone.ExaoneForCausalLM"},
        "embed_dropout": 0.0,
        "head_dim": 8,
        "layer_norm_epsilon": 1e-05,
        "model_type": "exaone",
        "num_layers": 4,
        "num_hidden_layers": ...,
        "rms_norm_eps": ...,
        "rope_scaling": LLAMA_3,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "EXAONE-4.0-1.2B": {
        "head_dim": 16,
        "hidden_act": "silu",
        "layer_types": [FULL] * 4,
        "model_type": "exaone4",
        "rope_scaling": LLAMA_3,
        "rope_theta": 1000000,
        "sliding_window": None,
        "sliding_window_pattern": None,
        "tie_word_embeddings": True,
    },
    "EXAONE-4.0-32B": {
        "hidden_act": "silu",
        "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
        "model_type": "exaone4",
        "rope_scaling": LLAMA_3,
        "rope_theta": 1000000,
        "sliding_window": 16,
        "sliding_window_pattern": "LLLG",
        "tie_word_embeddings": False,
    },
    "GLM-4-9B-0414": {
        "attention_bias": False,
        "eos_token_id": [2, 3, 4],
        "head_dim": 16,
        "hidden_act": "silu",
        "model_type": "glm4",
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    "glm-4-9b-chat-hf": {
        "attention_bias": True,
        "head_dim": 16,
        "hidden_act": "silu",
        "model_type": "glm",
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1.5625e-07,
        "tie_word_embeddings": False,
    },
    "ERNIE-4.5-0.3B": {
        "head_dim": 16,
        "hidden_act": "silu",
        "model_type": "ernie4_5",
        "rope_theta": 500000,
        "tie_word_embeddings": True,
        "use_bias": False,
        "use_rmsnorm": True,
    },
    "helium-1-2b": {
        "attention_bias": False,
        "head_dim": 8,
        "hidden_act": "silu",
        "mlp_bias": False,
        "model_type": "helium",
        "rms_norm_eps": 1e-08,
        "rope_theta": 20000.0,
        "tie_word_embeddings": False,
    },
}


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_a_settings_file_of_the_hub_means_what_transformers_reads(
    tmp_path: Path, name: str
) -> None:
    document = {key: value for key, value in (COMMON | DOCUMENTS[name]).items() if value is not ...}
    path = tmp_path / "source/config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    config = AutoConfig.from_pretrained(path.parent)
    config.dtype = None  # else transformers rounds Gemma's scale of the embedding to bfloat16
    theirs = save_tiny(config, path.parent)
    path.write_text(json.dumps(document))
    ours, _ = imported(path.parent, tmp_path / "checkpoint")
    assert error(theirs, ours, length=ours.config.block_size) <= LIMIT
