"""Small configurations of the families with LayerNorm, and settings as the Hub's files have."""

from typing import Any

import transformers as hf
from tiny_checkpoints import SIZES

__all__ = ["CASES", "COMPASS", "DEFAULTS", "HUB", "KEPT", "WIDE_HEADS"]

WINDOW = 8
# The sizes under the names of other families.
ALL_HEADS = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
NO_WIDTH = {name: value for name, value in ALL_HEADS.items() if name != "intermediate_size"}
GPT_2: dict[str, Any] = {
    "vocab_size": 97,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT_NEO: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "num_layers": 4,
    "num_heads": 4,
    "max_position_embeddings": 128,
    "window_size": WINDOW,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WHOLE_HEAD = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
COMPASS = {
    "sliding_attention": {
        "rope_theta": 50000.0,
        "rope_type": "default",
        "mrope_section": [4, 2, 2],
    },
    "full_attention": None,
}
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
    "codegen": hf.CodeGenConfig(**{**GPT_2, "n_head": 8, "n_embd": 128}, rotary_dim=4),
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
    "xglm": hf.XGLMConfig(**NO_WIDTH, ffn_dim=48),
    "xglm, embedding unscaled, padding among the positions": hf.XGLMConfig(
        **{**NO_WIDTH, "pad_token_id": 5}, ffn_dim=48, scale_embedding=False
    ),
    "xglm of odd width": hf.XGLMConfig(
        **{**NO_WIDTH, "hidden_size": 63, "num_attention_heads": 3}, ffn_dim=48
    ),
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
    "cohere_compass": hf.CohereCompassTextConfig(
        **SIZES,
        sliding_window=WINDOW,
        rope_parameters=COMPASS,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "cohere_compass, all alike": hf.CohereCompassTextConfig(
        **SIZES, rope_parameters={"full_attention": COMPASS["sliding_attention"]}, logit_scale=0.3
    ),
    "nemotron": hf.NemotronConfig(**SIZES),
    "nemotron with biases": hf.NemotronConfig(
        **SIZES, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "jais2": hf.Jais2Config(**SIZES),
    "olmo": hf.OlmoConfig(**SIZES),
    "olmo, tied with biases": hf.OlmoConfig(**SIZES, attention_bias=True, tie_word_embeddings=True),
}
WIDE_HEADS = {
    "gpt_neox": hf.GPTNeoXConfig(**{**ALL_HEADS, "num_attention_heads": 2}),  # 4 of 16 angles
    "gptj": hf.GPTJConfig(**{**GPT_2, "n_head": 2}, rotary_dim=10),
}

KEPT = {*SIZES, *GPT_2, *GPT_NEO, "model_type", "attention_types", "rotary_dim", "sliding_window"}
KEPT |= {"ffn_dim", "ffn_hidden_size", "d_model", "attention_heads"}
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
    "xglm",
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
    "gpt2-xl": (hf.GPT2Config(**GPT_2), {**SUMMARY, "n_ctx": 1024, "output_past": True}),
    "gpt-sw3": (hf.GPT2Config(**GPT_2), {**SUMMARY, "model_type": "gpt-sw3"}),
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
        hf.CodeGenConfig(**{**GPT_2, "n_embd": 32}, rotary_dim=4),  # heads of 8: no idle angles
        {**SUMMARY, "gradient_checkpointing": False, "n_ctx": 2048, "scale_attn_weights": True},
    ),
    "pythia": (
        hf.GPTNeoXConfig(**ALL_HEADS),
        {"rope_parameters": None, "rotary_emb_base": 10000, "rotary_pct": 0.25},
    ),
    "dolly-v2": (
        hf.GPTNeoXConfig(**ALL_HEADS),
        {
            "rope_parameters": None,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.Pipeline"}},
        },
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
            "word_embed_proj_dim": 64,
            "enable_bias": None,
            "layer_norm_elementwise_affine": None,
            "tie_word_embeddings": None,
        },
    ),
    "xglm-564m": (
        hf.XGLMConfig(**{**NO_WIDTH, "pad_token_id": 1}, ffn_dim=48),
        {
            "activation_dropout": 0,
            "attention_dropout": 0.1,
            "decoder_start_token_id": 2,
            "dropout": 0.1,
            "init_std": 0.02,
            "layerdrop": 0.0,
            "add_cross_attention": None,
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
    "command-a": (
        hf.Cohere2Config(**{**SIZES, "num_hidden_layers": 4}, sliding_window=WINDOW),
        {
            "rope_parameters": None,
            "rope_theta": 10000,
            "layer_types": None,
            "sliding_window_pattern": 4,
            "use_parallel_embedding": True,
        },
    ),
    "command-a, saved by transformers 4.56": (
        hf.Cohere2Config(**{**SIZES, "num_hidden_layers": 4}, sliding_window=WINDOW),
        {"rope_parameters": None, "rope_theta": 10000.0, "_sliding_window_pattern": 4},
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
