"""Each kind of model that families make, through each lowering, is what PyTorch computes.

A case stands for all families with the same switches. Rows of different length are fed in pieces,
then token by token past the edge of the windows. The graphs are also compared with models that lack
one switch, so that a lowering which forgets a switch cannot pass.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feeding import fed, relative_error
from numpy.typing import NDArray
from small_models import random_model, write_checkpoint

from edgegpt.export import export_bundle
from edgegpt.importers.architectures import FAMILIES
from edgegpt.importers.settings import SourceSettings
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.options import EngineOptions

LIMIT = 1e-5  # of the largest logit
# New tokens of each row in each step; the last steps are past the edge of the windows.
FEEDS = ((9, 1, 14), (5, 7, 2), (3, 3, 3), *[(1, 1, 1)] * 6)
ALL = ["ort", "standard", "legacy"]
SIZES: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
TYPES = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 7}
CASES: dict[str, dict[str, Any]] = {
    "gemma2": TYPES | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 9.0},
    "gemma3_text": TYPES | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "olmo3": TYPES | {"rope_scaling": YARN},  # without windows: OLMo 2
    "granite": {  # Llama, Mistral, Qwen2, ... have fewer switches
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "attention_multiplier": 0.1,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "cohere2": TYPES,  # positions in layers with windows only, as EXAONE 4; SmolLM3 has them so
    "phi": {"head_dim": 32, "partial_rotary_factor": 0.5},  # GPT-NeoX, GPT-J, StableLM
    "phi3": {"sliding_window": 7, "partial_rotary_factor": 0.75},
    "nanochat": {},  # Qwen3 has a gate
    "gpt2": {"activation_function": "gelu"},  # Starcoder2, OPT, GPT-Neo
}
LOWERINGS = dict.fromkeys(CASES, ALL) | {"phi3": ["standard", "legacy"]}  # 6 angles


def config_of(family: str) -> GPTConfig:
    values = {"head_dim": 16, "layer_norm_epsilon": 1e-5} | SIZES | CASES[family]
    return FAMILIES[family].config(SourceSettings(values, "config.json"))


def texts(config: GPTConfig) -> NDArray[np.int64]:
    """Return the ids [3, 25] that are fed."""
    return np.random.default_rng(0).integers(0, config.vocab_size, (3, 25))


def logits_of(bundle: Bundle, lowering: str, rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return the logits [N, V] of what is fed of each row to a graph."""
    engine = open_engine(bundle, EngineOptions(threads=1), lowering=lowering)
    return fed(engine.new_state(3, 32), rows, FEEDS)


@torch.no_grad()
def error(found: list[NDArray[np.float32]], model: GPT, rows: NDArray[np.int64]) -> float:
    """Return the largest difference from the logits of the model's plain path, of the largest."""
    return relative_error(found, model(torch.from_numpy(rows)).numpy())


def other_kinds(config: GPTConfig) -> dict[str, dict[str, Any]]:
    """Return changes of how layers see positions, by what they change."""
    kinds = config.layer_kinds

    def changed(**values: Any) -> dict[str, Any]:
        return {"layer_kinds": tuple(replace(kind, **values) for kind in kinds)}

    def halved() -> dict[str, Any]:
        rotaries = [kind.rotary[: len(kind.rotary) // 2] for kind in kinds]
        pairs = zip(kinds, rotaries, strict=True)
        return {"layer_kinds": tuple(replace(kind, rotary=own) for kind, own in pairs)}

    wider = [replace(kind, window=kind.window and kind.window + 1) for kind in kinds]
    turned = tuple(len(kinds) - 1 - index for index in config.layer_kind)
    return {
        "no window": changed(window=0),
        "a wider window": {"layer_kinds": tuple(wider)},
        "no factor": changed(rotary_factor=1.0),
        "fewer angles": halved(),
        "no rotation": changed(rotary=(), rotary_factor=1.0),
        "layers swapped": {"layer_kind": turned},
    }


def changes(config: GPTConfig) -> dict[str, GPTConfig]:
    """Return the model with one switch changed, for each switch that it has."""
    found: dict[str, dict[str, Any]] = {
        "norm": {"norm": "layernorm", "norm_bias": False},
        "norm_bias": {"norm_bias": False} if config.norm == "layernorm" else {},
        "norm_eps": {"norm_eps": 100 * config.norm_eps},
        "no norm after": {"norm_placement": "pre"} if config.norm_placement == "sandwich" else {},
        "parallel": {"parallel": not config.parallel},
        "no positions": {"position": "none"} if config.position == "learned" else {},
        "activation": {"activation": "gelu_tanh" if config.activation == "gelu" else "gelu"},
        "no gate": {"gated": False},
        "no qk_norm": {"qk_norm": "none"},
        "attention_scale": {"attention_scale": 1.01 * config.attention_scale},
        "tied": {"tie_embeddings": True},
        **{name: {name: 0.0} for name in ("attention_softcap", "logit_softcap")},
        **{name: {name: 1.0} for name in ("embedding_scale", "residual_scale")},
        **{name: {name: False} for name in ("qkv_bias", "proj_bias", "ff_bias", "head_bias")},
        **other_kinds(config),
    }
    made = {name: replace(config, **values) for name, values in found.items()}
    return {name: changed for name, changed in made.items() if changed != config}


@pytest.mark.parametrize("family", list(CASES))
def test_the_graphs_of_a_family_compute_what_pytorch_does_and_no_switch_is_lost(
    tmp_path: Path, family: str
) -> None:
    model = random_model(config_of(family))
    export_bundle(write_checkpoint(tmp_path / "checkpoint", model, text=None), tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert local_lowerings(bundle) == LOWERINGS[family]
    rows = texts(model.config)
    found = {lowering: logits_of(bundle, lowering, rows) for lowering in LOWERINGS[family]}
    errors = {lowering: error(logits, model, rows) for lowering, logits in found.items()}
    assert all(value <= LIMIT for value in errors.values()), errors  # `max` may skip NaN
    for name, config in changes(model.config).items():
        other = GPT(config).eval()
        missing, _ = other.load_state_dict(model.state_dict(), strict=False)
        assert not missing
        assert error(found["standard"], other, rows) > 2 * LIMIT, name


def test_every_switch_is_changed_in_some_case() -> None:
    configs = [config_of(family) for family in CASES]
    changed = {
        field.name
        for config in configs
        for other in changes(config).values()
        for field in fields(config)
        if getattr(config, field.name) != getattr(other, field.name)
    }
    sizes = {"vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_kv_head", "head_dim"}
    others = {"n_ff", "dropout", "rope_theta"}  # families give angles, not their base
    own = {"final_norm", "embedding_norm"}  # of encoder-decoders, and of models trained here
    own |= {"relative_buckets", "relative_distance", "relative_shared"}
    assert {field.name for field in fields(GPTConfig)} == changed | sizes | others | own
