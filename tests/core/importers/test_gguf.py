"""GGUF files, as llama.cpp's conversion makes them, compute what the converted model computed."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_checkpoints import SIZES, error, imported, save_tiny
from tiny_gguf import ARCHITECTURES, write_gguf

from edgegpt.importers.gguf.architectures import ARCHITECTURES as KNOWN

LIMIT = 3e-6  # of the largest logit: two correct float32 engines differ by 2e-6
SLIDING, FULL = "sliding_attention", "full_attention"
WIDE = {"hidden_size": 64, "intermediate_size": 96}  # both are whole numbers of blocks of 32
YARN = {
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "beta_fast": 16.0,
}
GEMMA_3_ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 4.0, 5.0, 6.0, 7.0],
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 110,
}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.015625,
    "logits_scaling": 8.0,
}
FALCON = {"intermediate_size": None, "max_position_embeddings": 2048}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 97}


def new(family: str, **changes: Any) -> transformers.PretrainedConfig:
    """Return the configuration of a small model."""
    config: transformers.PretrainedConfig = getattr(transformers, f"{family}Config")(
        **{**SIZES, **WIDE, **changes}
    )
    return config


def rope(theta: float, share: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}


# The architecture and the model's configuration.
CASES = {
    "llama": ("llama", new("Llama")),
    "llama tied, with biases": (
        "llama",
        new("Llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    ),
    "llama yarn, wide heads": ("llama", new("Llama", rope_parameters=YARN, head_dim=32)),
    "smollm3": ("smollm3", new("SmolLM3", num_hidden_layers=4)),
    "granite": ("granite", new("Granite", **GRANITE)),
    "qwen2": ("qwen2", new("Qwen2")),
    "qwen3": ("qwen3", new("Qwen3", head_dim=32)),
    "gemma": ("gemma", new("Gemma", head_dim=32)),
    "gemma2": ("gemma2", new("Gemma2", **GEMMA)),
    "gemma3": (
        "gemma3",
        new("Gemma3Text", **GEMMA, num_hidden_layers=7, rope_parameters=GEMMA_3_ROPE),
    ),
    "phi2": ("phi2", new("Phi", rope_parameters=rope(10000.0, 0.5), num_key_value_heads=4)),
    "phi3 longrope": ("phi3", new("Phi3", sliding_window=None, rope_parameters=LONG)),
    "gpt2": ("gpt2", transformers.GPT2Config(**GPT2)),
    "gptneox": (
        "gptneox",
        new("GPTNeoX", num_key_value_heads=4, rope_parameters=rope(10000.0, 0.25)),
    ),
    "gptneox, one after the other": (
        "gptneox",
        new(
            "GPTNeoX",
            num_key_value_heads=4,
            rope_parameters=rope(10000.0, 0.5),
            use_parallel_residual=False,
        ),
    ),
    "falcon 7b": ("falcon", new("Falcon", **FALCON)),
    "falcon 40b": (
        "falcon",
        new("Falcon", **FALCON, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "starcoder2": ("starcoder2", new("Starcoder2", sliding_window=None)),
    "stablelm": (
        "stablelm",
        new("StableLm", use_qkv_bias=True, rope_parameters=rope(10000.0, 0.25)),
    ),
    "stablelm, parallel": (
        "stablelm",
        new("StableLm", use_parallel_residual=True, rope_parameters=rope(10000.0, 0.5)),
    ),
    "olmo2": ("olmo2", new("Olmo2")),
    "olmo3": ("olmo2", new("Olmo3", num_hidden_layers=4, sliding_window=8)),
    "command-r": ("command-r", new("Cohere", logit_scale=0.25)),
    "cohere2": ("cohere2", new("Cohere2", num_hidden_layers=4, sliding_window=8, head_dim=16)),
}


def test_every_architecture_is_compared() -> None:
    assert {name for name, _ in CASES.values()} == set(KNOWN) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", list(CASES))
def test_a_gguf_file_computes_what_the_converted_model_did(tmp_path: Path, name: str) -> None:
    architecture, config = CASES[name]
    theirs = save_tiny(config, tmp_path / "source")
    write_gguf(theirs, tmp_path / "model.gguf", architecture)
    ours, found = imported(tmp_path / "model.gguf", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert found.config == imported(tmp_path / "source", tmp_path / "other")[1].config
