"""Small configurations of models that read more than text, around the language models of others."""

from typing import Any

import llama_configs
import rmsnorm_configs
import transformers
from layernorm_configs import COMPASS
from tiny_checkpoints import SIZES
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

__all__ = ["CASES", "QWEN", "QWEN_TEXT", "composite"]

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model"}
CLIP = {**TOWER, "model_type": "clip_vision_model", "projection_dim": 16}
PIXTRAL = {**TOWER, "model_type": "pixtral", "head_dim": 8}
INTERN = {**TOWER, "image_size": [16, 16], "patch_size": [8, 8], "model_type": "internvl_vision"}
QWEN = {
    "depth": 1,
    "num_heads": 2,
    "patch_size": 8,
    "hidden_size": 64,
    "intermediate_size": 16,
    "embed_dim": 16,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 4,
    "num_key_value_heads": 2,
}
EAR = {
    "hidden_size": 16,
    "d_model": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 4,
    "max_source_positions": 8,
}
MROPE = {"rope_type": "default", "rope_theta": 50000.0, "mrope_section": [4, 2, 2]}
GLM_ROPE = {"rope_type": "default", "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
QWEN_TEXT = {**SIZES, "rope_parameters": MROPE}
COHERE_2 = {**SIZES, "num_hidden_layers": 4, "sliding_window": 8, "model_type": "cohere2"}


def composite(kind: str, text: PretrainedConfig | dict[str, Any], **more: Any) -> PretrainedConfig:
    """Return the configuration of a model of the family `kind` around a language model."""
    settings = text if isinstance(text, dict) else text.to_dict()
    config: PretrainedConfig = CONFIG_MAPPING[kind](text_config=dict(settings), **more)
    return config


LLAMA, QWEN_2 = llama_configs.CASES["llama"], llama_configs.CASES["qwen2"]
QWEN_3 = llama_configs.CASES["qwen3"]
EXAONE, MISTRAL = rmsnorm_configs.CASES["exaone4"], rmsnorm_configs.CASES["mistral"]
CASES = {
    "gemma3": composite("gemma3", rmsnorm_configs.CASES["gemma3"], vision_config=SIGLIP),
    "mistral3": composite("mistral3", MISTRAL, vision_config=PIXTRAL, tie_word_embeddings=False),
    "mistral3, ministral3": composite(
        "mistral3", rmsnorm_configs.CASES["ministral3"], vision_config=PIXTRAL
    ),
    "qwen2_vl": composite("qwen2_vl", QWEN_TEXT, vision_config=QWEN),
    "qwen2_5_vl": composite("qwen2_5_vl", QWEN_TEXT, vision_config=QWEN, tie_word_embeddings=True),
    "qwen3_vl": composite("qwen3_vl", {**QWEN_TEXT, "head_dim": 32}, vision_config=QWEN),
    "llava": composite("llava", LLAMA, vision_config=CLIP),
    "llava, qwen3": composite("llava", QWEN_3, vision_config=CLIP, tie_word_embeddings=True),
    "llava_next": composite("llava_next", MISTRAL, vision_config=CLIP),
    "llava_next, granite": composite(
        "llava_next", rmsnorm_configs.CASES["granite"], vision_config=CLIP, tie_word_embeddings=True
    ),
    "llava_next_video": composite("llava_next_video", LLAMA, vision_config=CLIP),
    "llava_onevision": composite(
        "llava_onevision", {**QWEN_2.to_dict(), "tie_word_embeddings": True}, vision_config=SIGLIP
    ),
    "vipllava": composite(
        "vipllava", LLAMA, vision_config={**CLIP, "num_hidden_layers": 5}, vision_feature_layers=[0]
    ),
    "internvl": composite("internvl", QWEN_3, vision_config=INTERN, tie_word_embeddings=False),
    "aya_vision": composite("aya_vision", COHERE_2, vision_config=SIGLIP),
    "cohere2_vision": composite("cohere2_vision", COHERE_2, vision_config=SIGLIP),
    "cohere_compass": composite(
        "cohere_compass",
        transformers.CohereCompassTextConfig(
            **SIZES,
            rope_parameters=COMPASS,
            sliding_window=8,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            logit_scale=0.25,
        ),
        vision_config=QWEN,
    ),
    "exaone4_5": composite("exaone4_5", EXAONE, vision_config=QWEN),
    "deepseek_vl": composite("deepseek_vl", LLAMA, vision_config=SIGLIP),
    "glm4v": composite(
        "glm4v",
        {**SIZES, "head_dim": 16, "rope_parameters": GLM_ROPE},
        vision_config={**QWEN, "hidden_size": 16},
    ),
    "janus": composite(
        "janus",
        LLAMA,
        vision_config={**TOWER, "mlp_ratio": 1.0, "projection_dim": 64},
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 8,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "projection_dim": 64,
            "image_token_embed_dim": 64,
        },
    ),
    "ovis2": composite(
        "ovis2",
        QWEN_2,
        vision_config={**TOWER, "vocab_size": 16},
        hidden_size=64,
        vocab_size=97,
        tie_word_embeddings=False,
    ),
    "video_llama_3": composite("video_llama_3", QWEN_2, vision_config=TOWER),
    "video_llava": composite("video_llava", LLAMA, vision_config=CLIP),
    "idefics2": composite(
        "idefics2",
        MISTRAL,
        vision_config=TOWER,
        perceiver_config={"resampler_n_latents": 2, "resampler_depth": 1},
    ),
    "idefics3": composite("idefics3", LLAMA, vision_config=TOWER),
    "smolvlm": composite("smolvlm", LLAMA, vision_config=TOWER),
    "qwen2_audio": composite("qwen2_audio", QWEN_2, audio_config=EAR),
    "voxtral": composite("voxtral", LLAMA, audio_config=EAR),
}
