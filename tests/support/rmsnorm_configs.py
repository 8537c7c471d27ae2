"""Small configurations of the families with RMSNorm, but for those in `llama_configs`."""

from typing import Any

import transformers
from llama_configs import LLAMA_3
from tiny_checkpoints import SIZES

__all__ = ["CASES", "DENSE", "FULL", "SLIDING", "YARN"]

HEAD = {"head_dim": 32}  # wider than an equal share of the stream
LAYERS = {"num_hidden_layers": 4}
SLIDING, FULL = "sliding_attention", "full_attention"
YARN = {
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
MINISTRAL_3 = {
    **YARN,
    "original_max_position_embeddings": 80,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
GEMMA = {**HEAD, "sliding_window": 8, "query_pre_attn_scalar": 24}
GEMMA_3_ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.0, 1.1, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 1.5, 2.0, 2.0, 3.0, 4.0],
    "partial_rotary_factor": 0.75,
}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.015625,
    "logits_scaling": 8.0,
}
DENSE = {
    "num_local_experts": 0,
    "layer_types": ["attention"] * 3,
    "shared_intermediate_size": 40,
    "mamba_n_heads": 8,
}


def new(family: str, **changes: Any) -> transformers.PretrainedConfig:
    """Return the configuration of a small model."""
    config: transformers.PretrainedConfig = getattr(transformers, f"{family}Config")(
        **{**SIZES, **changes}
    )
    return config


CASES = {
    "mistral": new("Mistral", sliding_window=8),
    "mistral without windows": new("Mistral", sliding_window=None, **HEAD),
    "ministral": new(
        "Ministral", sliding_window=8, layer_types=[FULL, SLIDING, SLIDING], head_dim=16
    ),
    "ministral all windows": new("Ministral", sliding_window=8, head_dim=16),
    "ministral3": new("Ministral3", rope_parameters=MINISTRAL_3, **HEAD),
    "smollm3": new("SmolLM3", **LAYERS),
    "smollm3 with windows": new(
        "SmolLM3",
        use_sliding_window=True,
        sliding_window=8,
        no_rope_layer_interval=2,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
    ),
    "smollm3 listed": new(
        "SmolLM3",
        use_sliding_window=True,
        sliding_window=8,
        no_rope_layers=[0, 1, 1],
        layer_types=[FULL, SLIDING, FULL],
    ),
    "gemma": new("Gemma", **HEAD),
    "gemma2": new("Gemma2", **GEMMA),
    "gemma2 without caps": new(
        "Gemma2", **GEMMA, attn_logit_softcapping=None, final_logit_softcapping=None
    ),
    "gemma2 listed": new("Gemma2", **GEMMA, layer_types=[FULL, SLIDING, SLIDING]),
    "gemma3": new("Gemma3Text", **GEMMA, num_hidden_layers=7, rope_parameters=GEMMA_3_ROPE),
    "gemma3 other": new(
        "Gemma3Text",
        **GEMMA,
        layer_types=[SLIDING, FULL, SLIDING],
        final_logit_softcapping=3.0,
        attention_bias=True,
    ),
    "vaultgemma": new("VaultGemma", **GEMMA),
    "phi3": new("Phi3", sliding_window=20),
    "phi3 long": new(
        "Phi3", rope_parameters=LONG, original_max_position_embeddings=80, tie_word_embeddings=True
    ),
    "granite": new("Granite", **GRANITE, tie_word_embeddings=True),
    "granite with biases": new("Granite", attention_bias=True, mlp_bias=True),
    "granite 4": new("GraniteMoeHybrid", **DENSE, **GRANITE, position_embedding_type="rope"),
    "granite 4 without positions": new(
        "GraniteMoeHybrid",
        **DENSE,
        position_embedding_type="nope",
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "hyperclovax": new("HyperCLOVAX", **{**GRANITE, "logits_scaling": 0.125}, head_dim=16),
    "hyperclovax without output norms": new(
        "HyperCLOVAX", use_post_norm=False, attention_bias=True, tie_word_embeddings=True
    ),
    "olmo2": new("Olmo2"),
    "olmo2 with biases": new("Olmo2", num_key_value_heads=4, attention_bias=True),
    "olmo3": new(
        "Olmo3",
        **LAYERS,
        sliding_window=8,
        rope_parameters={FULL: YARN, SLIDING: {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    "exaone": new("Exaone", rope_parameters=LLAMA_3),
    "exaone4": new("Exaone4", **LAYERS, sliding_window=8),
    "exaone4 without windows": new("Exaone4", sliding_window=None, layer_types=[FULL] * 3),
    "glm": new("Glm", **HEAD),
    "glm4": new("Glm4", **HEAD),
    "glm4 without biases": new("Glm4", **HEAD, attention_bias=False),
    "helium": new("Helium", head_dim=16, attention_bias=True, mlp_bias=True),
    "ernie": new("Ernie4_5", **HEAD),
    "ernie with biases": new("Ernie4_5", **HEAD, use_bias=True, tie_word_embeddings=False),
    "arcee": new("Arcee", rope_parameters=YARN),
    "arcee with biases": new("Arcee", attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "nanochat": new("NanoChat"),
    "nanochat grown": new("NanoChat", attention_bias=True, final_logit_softcapping=None),
    "seed_oss": new("SeedOss", **HEAD),
    "seed_oss other biases": new(
        "SeedOss", **HEAD, attention_bias=False, attention_out_bias=True, mlp_bias=True
    ),
}
