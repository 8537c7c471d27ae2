"""Small configurations of the families that are closest to Llama."""

from tiny_checkpoints import SIZES
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

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
    "qwen2": Qwen2Config(**SIZES),
    "qwen2 with windows": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}
