"""Families with RMSNorm: imported, they compute what transformers computes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_checkpoints import LIMIT, SIZES, error, imported, same_greedy_text, save_tiny

from edgegpt.errors import CheckpointError
from edgegpt.importers.architectures import FAMILIES
from edgegpt.importers.settings import SourceSettings
from edgegpt.model import GPTConfig

HEAD = {"head_dim": 16}  # wider than an equal share of the stream
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
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500000.0,
}
GEMMA = {**HEAD, "sliding_window": 8, "query_pre_attn_scalar": 24}
GEMMA_3_ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.0, 2.0, 4.0],
    "partial_rotary_factor": 0.75,
}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.015625,
    "logits_scaling": 8.0,
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
        "Ministral", sliding_window=8, layer_types=[FULL, SLIDING, SLIDING], head_dim=8
    ),
    "ministral all windows": new("Ministral", sliding_window=8, head_dim=8),
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
    "helium": new("Helium", head_dim=8, attention_bias=True, mlp_bias=True),
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
CUT = {"ministral3", "phi3 long"}  # to 80 tokens


@pytest.mark.parametrize("name", list(CASES))
def test_an_imported_model_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours, length=ours.config.block_size) <= LIMIT
    assert same_greedy_text(theirs, ours)
    assert ours.config.block_size == (80 if name in CUT else 128)
    assert len(found.notes) == (name in CUT)


@pytest.mark.parametrize(
    ("name", "float32"),
    [
        ("phi3", ""),
        ("glm4", ""),
        ("nanochat", r".*norm.*|token_embedding\.weight"),
        ("gemma2", r".*norm.*"),
        ("granite", r"norm_final\.weight"),
    ],
)
def test_a_weight_keeps_bfloat16_unless_a_fold_changes_its_values(
    tmp_path: Path, name: str, float32: str
) -> None:
    """Moved rows keep it; 1 + w, a factor, a norm of the table and missing norms do not."""
    source = tmp_path / "source"
    save_tiny(CASES[name], source).bfloat16().save_pretrained(source)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    ours, found = imported(source, tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    for weight, dtype in found.dtypes.items():
        changed = re.fullmatch(float32, weight) is not None
        assert dtype == (torch.float32 if changed else torch.bfloat16), weight


def configured(family: str, **values: Any) -> GPTConfig:
    """Return our settings of a model with these settings, all of which must be known."""
    source = SourceSettings({**SIZES, **values}, "config.json")
    config = FAMILIES[family].config(source)
    source.finish()
    return config


@pytest.mark.parametrize("family", ["mistral", "ministral", "gemma2", "olmo3", "exaone4"])
def test_a_missing_window_is_the_family_s_own_and_null_is_none(family: str) -> None:
    full = {"max_position_embeddings": 8192}
    assert {kind.window for kind in configured(family, **full).kinds} >= {4096}
    types = {} if family == "mistral" else {"layer_types": [FULL] * 3}
    null = configured(family, **full, **types, sliding_window=None)
    assert {kind.window for kind in null.kinds} == {0}


def test_a_window_as_wide_as_the_block_is_left_out() -> None:
    assert configured("mistral", sliding_window=128).kinds[0].window == 0
    assert configured("mistral", sliding_window=127).kinds[0].window == 127


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("qwen2", {"use_mrope": True}, "use_mrope is True"),
        ("mistral", {"layer_types": [FULL] * 3}, "setting layer_types is not known"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("ministral", {"layer_types": [FULL, "chunked_attention", FULL]}, "'chunked_attention'"),
        ("ministral", {"layer_types": [FULL] * 2}, "2 entries for 3 layers"),
        ("ministral", {"layer_types": [SLIDING] * 3, "sliding_window": None}, "gives no width"),
        ("ministral3", {}, "rope_parameters is missing"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must have a 0 or 1 for each of 3"),
        ("smollm3", {"no_rope_layers": [1, 0, 2]}, "no_rope_layers must have a 0 or 1"),
        ("smollm3", {"layer_types": [SLIDING] * 3}, "gives no width"),
        ("gemma", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("gemma", {"num_hidden_layers": 10**12}, "1000000000000 layers .* cannot be right"),
        ("gemma", {"head_dim": 10**12}, "1000000000000 wide cannot be right"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, which is not"),
        ("gemma2", {"use_bidirectional_attention": True}, "not causal"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("phi3", {"attention_bias": True}, "attention_bias is True: Phi-3 has no biases"),
        ("phi3", {"full_attn_mod": 2}, "full_attn_mod is 2"),
        ("phi3", {"rope_scaling": {"type": "yarn", "short_factor": [1.0]}}, "short_factor is not"),
        ("glm4", {"rope_interleaved": False}, "setting rope_interleaved is not known"),
        ("ernie4_5", {"use_rmsnorm": False}, "use_rmsnorm is False"),
        ("ernie4_5", {"compression_ratio": 2.0}, "compression_ratio is 2.0"),
        ("nanochat", {"tie_word_embeddings": True}, "only the embedding has a norm"),
        ("nanochat", {"rope_parameters": YARN}, "its rotation has a factor"),
        ("olmo2", {"clip_qkv": 8.0}, "clips queries, keys and values"),
        ("arcee", {"hidden_act": "xielu"}, "activation 'xielu' is not known"),
    ],
)
def test_settings_that_change_what_is_computed_are_refused_by_name(
    family: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        configured(family, **values)
