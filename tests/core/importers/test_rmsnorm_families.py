"""Families with RMSNorm: imported, they compute what transformers computes."""

import re
from pathlib import Path
from typing import Any

import layernorm_configs
import pytest
import torch
import transformers
from rmsnorm_configs import CASES, DENSE, FULL, SLIDING, YARN
from tiny_checkpoints import LIMIT, SIZES, error, imported, same_greedy_text, save_tiny

from edgegpt.errors import CheckpointError
from edgegpt.importers.architectures import FAMILIES
from edgegpt.importers.settings import SourceSettings
from edgegpt.model import GPTConfig

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
        ("gemma3", r".*norm.*"),
        ("granite", r"norm_final\.weight"),
        ("gpt2 scaled by layer", r".*\.qkv\..*"),
    ],
)
def test_a_weight_keeps_bfloat16_unless_a_fold_changes_its_values(
    tmp_path: Path, name: str, float32: str
) -> None:
    """Moved rows keep it; 1 + w, a factor, a norm of the table and missing norms do not."""
    source = tmp_path / "source"
    save_tiny((layernorm_configs.CASES | CASES)[name], source).bfloat16().save_pretrained(source)
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


def test_heads_of_a_width_that_the_settings_give_need_not_divide_the_stream() -> None:
    config = configured("llama", hidden_size=32, num_attention_heads=6, head_dim=8)
    assert (config.n_head, config.head_dim, config.n_embd) == (6, 8, 32)


@pytest.mark.parametrize("family", ["mistral", "ministral", "gemma2", "olmo3", "exaone4"])
def test_a_missing_window_is_the_family_s_own_and_null_is_none(family: str) -> None:
    full = {"max_position_embeddings": 8192}
    assert {kind.window for kind in configured(family, **full).kinds} >= {4096}
    types = {} if family == "mistral" else {"layer_types": [FULL] * 3}
    null = configured(family, **full, **types, sliding_window=None)
    assert {kind.window for kind in null.kinds} == {0}


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwen_that_asks_for_windows_of_no_width_has_none(family: str) -> None:
    asked = {"max_position_embeddings": 8192, "use_sliding_window": True, "max_window_layers": 1}
    windows = [kind.window for kind in configured(family, **asked).kinds]
    assert windows == [0, 4096, 4096]
    null = configured(family, **asked, sliding_window=None)
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
        (
            "ministral",
            {"layer_types": [[FULL]] * 3},
            r"layer_types has \['full_attention'\], which",
        ),
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
        ("granitemoehybrid", {"layer_types": ["attention"] * 3}, "it is a mixture of experts"),
        ("granitemoehybrid", {"num_local_experts": 0}, "'mamba': some of its layers keep a state"),
        ("granitemoehybrid", DENSE | {"layer_types": ["attention"] * 2}, "2 entries for 3 layers"),
        (
            "granitemoehybrid",
            DENSE | {"layer_types": ["attention", "linear_attention", "attention"]},
            "'linear_attention': some of its layers keep a state",
        ),
        ("granitemoehybrid", DENSE | {"position_embedding_type": "alibi"}, "is 'alibi'"),
        ("granitemoehybrid", DENSE | {"mlp_bias": True}, "setting mlp_bias is not known"),
        ("cwm", {}, "rope_parameters is missing"),
        ("iquestcoder", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("iquestcoder", {"loop_num": 2}, "setting loop_num is not known"),
        ("cohere_compass_text", {}, "rope_parameters has nothing for full_attention"),
        ("cohere_compass_text", {"rope_parameters": {FULL: 1}}, "has 1, which is not a table"),
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
