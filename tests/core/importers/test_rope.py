"""Rotary angles from settings: those of transformers to the last bit, in both dialects."""

from typing import Any

import pytest
import torch
import transformers
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from edgegpt.errors import CheckpointError
from edgegpt.importers.rope import Rotation, rotation_of, rotations_of
from edgegpt.importers.settings import SourceSettings
from edgegpt.model.rotary import rotary_table

LAST = 4095  # a position at which exact angles differ from those rounded to float32
SIZES = {"hidden_size": 2048, "num_attention_heads": 16, "max_position_embeddings": 131072}
WIDTH = 128
YARN = {
    "rope_type": "yarn",
    "factor": 16.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 1000000.0,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
PARAMETERS = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "default, whole base": {"rope_type": "default", "rope_theta": 5000000},
    "linear": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.7, "rope_theta": 10000.0},
    "llama3": LLAMA_3,
    "yarn": YARN,
    "yarn, mscale": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    "yarn, one mscale": YARN | {"mscale": 0.7},
    "yarn, betas": YARN | {"beta_fast": 24.0, "beta_slow": 2.0},
    "yarn, no truncation": YARN | {"truncate": False},
    "yarn, equal betas": YARN | {"beta_fast": 2.0, "beta_slow": 2.0, "truncate": False},
    "yarn, slow beyond the last pair": YARN | {"beta_slow": 1e-10},
    "yarn, own factor": YARN | {"attention_factor": 1.2079441541679836},
}
SHARE = 0.75
LONG = {
    "rope_theta": 10000.0,
    "partial_rotary_factor": SHARE,
    "short_factor": [1.0 + 0.01 * i for i in range(48)],
    "long_factor": [1.0 + 0.1 * i for i in range(48)],
}


def settings(**values: Any) -> SourceSettings:
    return SourceSettings(SIZES | values, "config.json")


def assert_same(ours: Rotation, inverse: torch.Tensor, factor: float) -> None:
    assert torch.equal(torch.tensor(ours.angles), inverse)
    assert ours.factor == factor


@pytest.mark.parametrize("name", list(PARAMETERS))
@pytest.mark.parametrize("dialect", [4, 5])
def test_angles_and_tables_are_those_of_transformers(name: str, dialect: int) -> None:
    given = dict(PARAMETERS[name])
    config = transformers.LlamaConfig(**SIZES, rope_parameters=dict(given))
    theirs = LlamaRotaryEmbedding(config)
    if dialect == 4:
        theta = given.pop("rope_theta")
        given["type"] = given.pop("rope_type")
        source = settings(rope_theta=theta, rope_scaling=given)
    else:
        source = settings(rope_parameters=given)
    ours = rotation_of(source, WIDTH)
    assert_same(ours, theirs.inv_freq, theirs.attention_scaling)
    cos, sin = theirs(torch.zeros(1), torch.arange(LAST + 1)[None])  # (1, LAST + 1, D)
    own = rotary_table(LAST + 1, ours.angles, ours.factor)
    for table, their_table in zip(own, (cos, sin), strict=True):
        assert torch.equal(table[LAST], their_table[0, LAST, : WIDTH // 2])


@pytest.mark.parametrize("name", ["longrope", "su"])
def test_longrope_is_that_of_transformers_up_to_the_original_length(name: str) -> None:
    given = LONG | {"rope_type": "longrope"}
    config = transformers.Phi3Config(
        **SIZES, original_max_position_embeddings=4096, rope_parameters=dict(given)
    )
    theirs = Phi3RotaryEmbedding(config)
    old = {"type": name} | {key: LONG[key] for key in ("short_factor", "long_factor")}
    new = settings(rope_parameters=given)
    for source in (new, settings(rope_scaling=old, partial_rotary_factor=SHARE)):
        ours = rotation_of(source, WIDTH, partial=1.0, original=4096)
        assert_same(ours, theirs.inv_freq, theirs.attention_scaling)
        assert ours.limit == 4096
        assert ours.factor > 1
        cos, _ = theirs(torch.zeros(1), torch.arange(LAST + 1)[None])
        own, _ = rotary_table(LAST + 1, ours.angles, ours.factor)
        assert torch.equal(own[LAST], cos[0, LAST, :48])


def test_layers_of_two_types_turn_as_in_transformers() -> None:
    old = {"rope_theta": 2000000.0, "rope_local_base_freq": 20000.0}
    scaling = {"rope_type": "linear", "factor": 8.0}
    theirs = Gemma3RotaryEmbedding(
        transformers.Gemma3TextConfig(
            **SIZES, **old, rope_scaling=dict(scaling), head_dim=WIDTH, num_hidden_layers=6
        )
    )
    bases = {
        "full_attention": ("rope_theta", 1.0),
        "sliding_attention": ("rope_local_base_freq", 1.0),
    }
    nested = {
        "full_attention": scaling | {"rope_theta": 2000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    }
    for source in (settings(**old, rope_scaling=scaling), settings(rope_parameters=nested)):
        ours = rotations_of(source, WIDTH, bases)
        assert_same(ours["full_attention"], theirs.full_attention_inv_freq, 1.0)
        assert_same(ours["sliding_attention"], theirs.sliding_attention_inv_freq, 1.0)


def test_what_changes_with_the_length_limits_it() -> None:
    dynamic = rotation_of(settings(rope_parameters=PARAMETERS["dynamic"]), WIDTH)
    assert dynamic.limit == SIZES["max_position_embeddings"]
    growing = YARN | {"llama_4_scaling_beta": 0.1}
    assert rotation_of(settings(rope_parameters=growing), WIDTH).limit == 8192
    assert rotation_of(settings(rope_parameters=YARN), WIDTH).limit is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope type 'proportional' is not"),
        ({"rope_parameters": {"rope_type": "axial"}}, "rope type 'axial' is not known"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "rope type 'spiral' is not known"),
        ({"rope_parameters": {"rope_type": 3}}, "rope_type is 3, which is not a text"),
        ({"rope_parameters": ["yarn"]}, "rope_parameters is .* not a table"),
        ({"rope_scaling": {"type": "linear"}}, "the setting factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor is '2', which is not a num"),
        ({"rope_theta": 0}, "rope_theta is 0.* not a number greater than 0"),
        ({"rope_theta": float("nan")}, "rope_theta is nan, which is not a finite number"),
        ({"rope_theta": 10**400}, "rope_theta is 10.* not a finite number"),
        ({"rope_parameters": LLAMA_3 | {"high_freq_factor": 0}}, "high_freq_factor is 0, which"),
        ({"rope_parameters": YARN | {"factor": -1.0}}, "factor is -1.0, which is not a number gr"),
        ({"rope_parameters": YARN | {"rope_theta": 1}}, "rope_theta is 1; yarn needs"),
        ({"rope_parameters": YARN | {"beta_fast": 1e308}}, "no pair makes 1e\\+308 turns"),
        ({"rope_parameters": YARN | {"beta_slow": 1e-308}}, "no pair makes 1e-308 turns"),
        ({"rope_parameters": {"mrope_section": [1]}}, "setting mrope_section is not known"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but this family rotates"),
        ({"rope_scaling": {"type": "su", "short_factor": [1.0]}}, "short_factor must have 64"),
        # HunYuan's, and Phi-3.5-MoE's: they change angles and factors of short texts, too.
        ({"rope_scaling": {"type": "dynamic", "alpha": 1000.0}}, "setting alpha is not known"),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0] * 64, "short_mscale": 1.24}},
            "setting short_mscale is not known",
        ),
    ],
)
def test_parameters_that_are_not_understood_are_refused_by_name(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        rotation_of(settings(**values), WIDTH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor is 2, which is not a share of 128"),
        ({"partial_rotary_factor": 1e-3}, "partial_rotary_factor is 0.001, which is not a share"),
        ({"short_factor": ["1"] * 48}, "entries that are not numbers"),
        ({"short_factor": [0.0] * 48}, "entries that are not numbers"),
        ({"original_max_position_embeddings": 1}, "too short"),
    ],
)
def test_a_longrope_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    given = LONG | {"rope_type": "longrope"} | changes
    with pytest.raises(CheckpointError, match=message):
        rotation_of(settings(rope_parameters=given), WIDTH, partial=1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunked_attention": {"rope_theta": 1.0}}, "unknown type of layer 'chunked_attention'"),
        ({"full_attention": 5}, "full_attention is 5, which is not a table"),
    ],
)
def test_a_type_of_layer_that_is_not_understood_is_refused(given: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        rotations_of(
            settings(rope_parameters=given), WIDTH, {"full_attention": ("rope_theta", 1.0)}
        )
