"""Families close to Llama: imported, they compute what transformers computes."""

from pathlib import Path

import pytest
from llama_configs import CASES, LLAMA_3
from rmsnorm_configs import DENSE
from tiny_checkpoints import LIMIT, SIZES, error, imported, same_greedy_text, save_tiny
from transformers import (
    CohereCompassTextConfig,
    CwmConfig,
    GraniteMoeHybridConfig,
    HyperCLOVAXConfig,
    InternLM3Config,
    IQuestCoderConfig,
    LlamaConfig,
    PretrainedConfig,
)


@pytest.mark.parametrize("name", list(CASES))
def test_an_imported_model_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert same_greedy_text(theirs, ours)
    assert found.notes == []


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (
            LlamaConfig(**SIZES, rope_parameters=LLAMA_3),
            {
                "rope_parameters": None,
                "rope_theta": 500000.0,
                "rope_scaling": {n: v for n, v in LLAMA_3.items() if n != "rope_theta"},
            },
        ),
        (
            LlamaConfig(
                **SIZES,
                rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
            ),
            {
                "rope_parameters": None,
                "rope_theta": 5000.0,
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
        ),
    ],
    ids=["llama3", "linear"],
)
def test_the_dialect_of_transformers_4_means_the_same(
    tmp_path: Path, config: PretrainedConfig, changes: dict[str, object]
) -> None:
    theirs = save_tiny(config, tmp_path / "source", changes)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (InternLM3Config(**SIZES), set()),
        (IQuestCoderConfig(**SIZES), set()),
        (CwmConfig(**{**SIZES, "num_hidden_layers": 5}), {"rope_parameters", "sliding_window"}),
        (HyperCLOVAXConfig(**SIZES), set()),
        (
            GraniteMoeHybridConfig(**SIZES, **{**DENSE, "shared_intermediate_size": 1024}),
            {"num_local_experts", "layer_types"},
        ),
        (
            CohereCompassTextConfig(**SIZES, rope_parameters={"full_attention": None}),
            {"rope_parameters"},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_setting_that_is_absent_has_the_default_of_its_family(
    tmp_path: Path, config: PretrainedConfig, kept: set[str]
) -> None:
    if "sliding_window" in kept:
        config.sliding_window = 8
    absent = dict.fromkeys(config.to_dict().keys() - {*SIZES, "model_type"} - kept)
    theirs = save_tiny(config, tmp_path / "source", absent)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert ours.config.norm_eps == theirs.config.to_dict().get("rms_norm_eps", 1e-5)
