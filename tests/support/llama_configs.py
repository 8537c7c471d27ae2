"""Small configurations of the families that are closest to Llama."""

from tiny_checkpoints import SIZES
from transformers import (
    CwmConfig,
    InternLM3Config,
    IQuestCoderConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

__all__ = ["CASES", "LLAMA_3"]

LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500000.0,
}
CASES = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases, tied": LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama 3.1": LlamaConfig(**SIZES, rope_parameters=LLAMA_3, head_dim=32),
    "internlm3": InternLM3Config(
        **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 6.0, "rope_theta": 50000.0}
    ),
    "internlm3 with biases": InternLM3Config(**SIZES, attention_bias=True, mlp_bias=True),
    "iquestcoder": IQuestCoderConfig(**SIZES, head_dim=32),
    "cwm": CwmConfig(**{**SIZES, "num_hidden_layers": 5}, head_dim=32, sliding_window=8),
    "cwm listed": CwmConfig(
        **SIZES,
        sliding_window=8,
        mlp_bias=True,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters=LLAMA_3,
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2 with windows": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}
