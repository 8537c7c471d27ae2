"""GGUF files, as llama.cpp's conversion makes them, compute what the converted model computed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind
from tiny_checkpoints import SIZES, error, imported, save_tiny
from tiny_gguf import ARCHITECTURES, dequantised, write_gguf

from edgegpt.errors import CheckpointError
from edgegpt.importers.gguf.architectures import ARCHITECTURES as KNOWN
from edgegpt.importers.gguf.header import Stored
from edgegpt.importers.gguf.tensors import Entry, GgufTensors
from edgegpt.importers.open import open_source
from edgegpt.importers.run import look
from edgegpt.model import GPTConfig

LIMIT = 3e-6  # of the largest logit: two correct float32 engines differ by 2e-6
SLIDING, FULL = "sliding_attention", "full_attention"
WIDE = {"hidden_size": 64, "intermediate_size": 96}  # both are whole numbers of blocks of 32
YARN = {
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "beta_fast": 16.0,
}
GEMMA_3_ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 4.0, 5.0, 6.0, 7.0],
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 110,
}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.015625,
    "logits_scaling": 8.0,
}
FALCON = {"intermediate_size": None, "max_position_embeddings": 2048}
GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 97}


def new(family: str, **changes: Any) -> transformers.PretrainedConfig:
    """Return the configuration of a small model."""
    config: transformers.PretrainedConfig = getattr(transformers, f"{family}Config")(
        **{**SIZES, **WIDE, **changes}
    )
    return config


def rope(theta: float, share: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}


def in_float32(config: GPTConfig) -> GPTConfig:
    """Return the settings with the factor that GGUF has as a float32 rounded to one."""
    kinds = [
        replace(kind, rotary_factor=float(np.float32(kind.rotary_factor)))
        for kind in config.layer_kinds
    ]
    return replace(config, layer_kinds=tuple(kinds))


# The architecture and the model's configuration.
CASES = {
    "llama": ("llama", new("Llama")),
    "llama tied, with biases": (
        "llama",
        new("Llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    ),
    "llama yarn, wide heads": ("llama", new("Llama", rope_parameters=YARN, head_dim=32)),
    "smollm3": ("smollm3", new("SmolLM3", num_hidden_layers=4)),
    "granite": ("granite", new("Granite", **GRANITE)),
    "granite 4, dense": (
        "granite",
        new(
            "GraniteMoeHybrid",
            **GRANITE,
            num_local_experts=0,
            layer_types=["attention"] * 3,
            shared_intermediate_size=96,
            mamba_n_heads=8,
            position_embedding_type="rope",
        ),
    ),
    "qwen2": ("qwen2", new("Qwen2")),
    "qwen3": ("qwen3", new("Qwen3", head_dim=32)),
    "gemma": ("gemma", new("Gemma", head_dim=32)),
    "gemma2": ("gemma2", new("Gemma2", **GEMMA)),
    "gemma3": (
        "gemma3",
        new("Gemma3Text", **GEMMA, num_hidden_layers=7, rope_parameters=GEMMA_3_ROPE),
    ),
    "phi2": ("phi2", new("Phi", rope_parameters=rope(10000.0, 0.5), num_key_value_heads=4)),
    "phi3 longrope": (
        "phi3",
        new(
            "Phi3",
            sliding_window=None,
            rope_parameters=LONG,
            original_max_position_embeddings=110,
        ),
    ),
    "phi3 with windows": (
        "phi3",
        new(
            "Phi3",
            sliding_window=8,
            pad_token_id=0,
            rope_parameters=rope(10000.0, 1.0) | {"original_max_position_embeddings": 128},
        ),
    ),
    "gpt2": ("gpt2", transformers.GPT2Config(**GPT2)),
    "gptneox": (
        "gptneox",
        new("GPTNeoX", num_key_value_heads=4, rope_parameters=rope(10000.0, 0.25)),
    ),
    "gptneox, one after the other": (
        "gptneox",
        new(
            "GPTNeoX",
            num_key_value_heads=4,
            rope_parameters=rope(10000.0, 0.5),
            use_parallel_residual=False,
        ),
    ),
    "falcon 7b": ("falcon", new("Falcon", **FALCON)),
    "falcon 40b": (
        "falcon",
        new("Falcon", **FALCON, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "starcoder2": ("starcoder2", new("Starcoder2", sliding_window=None)),
    "stablelm": (
        "stablelm",
        new("StableLm", use_qkv_bias=True, rope_parameters=rope(10000.0, 0.25)),
    ),
    "stablelm, parallel": (
        "stablelm",
        new("StableLm", use_parallel_residual=True, rope_parameters=rope(10000.0, 0.5)),
    ),
    "olmo2": ("olmo2", new("Olmo2")),
    "olmo3": ("olmo2", new("Olmo3", num_hidden_layers=4, sliding_window=8)),
    "command-r": ("command-r", new("Cohere", logit_scale=0.25)),
    "cohere2": ("cohere2", new("Cohere2", num_hidden_layers=4, sliding_window=8, head_dim=16)),
}


def test_every_architecture_is_compared() -> None:
    assert {name for name, _ in CASES.values()} == set(KNOWN) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", list(CASES))
def test_a_gguf_file_computes_what_the_converted_model_did(tmp_path: Path, name: str) -> None:
    architecture, config = CASES[name]
    theirs = save_tiny(config, tmp_path / "source")
    write_gguf(theirs, tmp_path / "model.gguf", architecture)
    ours, found = imported(tmp_path / "model.gguf", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    other = imported(tmp_path / "source", tmp_path / "other")[1]
    assert in_float32(found.config) == in_float32(other.config)


def test_the_frequencies_of_llama_3_are_those_of_the_tensor(tmp_path: Path) -> None:
    llama_3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 10000.0,
    }
    theirs = save_tiny(new("Llama", rope_parameters=llama_3), tmp_path / "source")
    plain = 1 / 10000.0 ** (np.arange(0, 16, 2) / 16)
    factors = (plain / theirs.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert factors.min() == 1.0
    assert ((factors > 1.2) & (factors < 7.8)).any()  # between the slow and the fast ones
    write_gguf(
        theirs,
        tmp_path / "model.gguf",
        "llama",
        extra=lambda writer: writer.add_tensor("rope_freqs.weight", factors),
    )
    ours, found = imported(tmp_path / "model.gguf", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert found.config.block_size == 128


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gptneox", "phi3 longrope"])
@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0], ids=lambda k: k.name)
def test_quantised_weights_have_the_values_that_the_file_gives_them(
    tmp_path: Path, name: str, kind: Kind
) -> None:
    architecture, config = CASES[name]
    theirs = save_tiny(config, tmp_path / "source")
    write_gguf(theirs, tmp_path / "model.gguf", architecture, kind)
    ours, found = imported(tmp_path / "model.gguf", tmp_path / "checkpoint")
    dequantised(theirs, architecture, kind)
    assert error(theirs, ours) <= LIMIT
    kept = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}.get(kind, torch.float32)
    assert found.dtypes["blocks.0.attention.proj.weight"] == kept


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name)
def test_a_type_is_dequantised_as_the_library_does_or_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    values, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 60, (5, 2 * size), np.uint8)  # no NaN of float16
    (tmp_path / "raw").write_bytes(b"head" + raw.tobytes())
    stored = Stored(tmp_path / "raw", 4, (5, 2 * values), kind)
    tensors = GgufTensors({"w": Entry(stored, "own", stored.shape, None)})
    monkeypatch.setattr("edgegpt.importers.gguf.tensors.CHUNK", 4 * values)  # two rows at once
    try:
        expected = gguf.quants.dequantize(raw, kind)
    except NotImplementedError:
        with pytest.raises(CheckpointError, match=f"own.* is of type {kind.name}, which"):
            tensors.dtype("w")
        return
    found = tensors.read("w")
    assert found.dtype == tensors.dtype("w")
    assert np.array_equal(found.float().numpy(), expected)


def test_a_split_model_is_read_from_its_first_part(tmp_path: Path) -> None:
    theirs = save_tiny(CASES["llama"][1], tmp_path / "source")
    write_gguf(theirs, tmp_path / "m.gguf", "llama", split_max_tensors=12)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert [part.name for part in parts] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    ours, _ = imported(parts[0], tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    with pytest.raises(CheckpointError, match="import the first"):
        open_source(parts[1])
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(CheckpointError, match="is not part 3 of"):
        open_source(parts[0])
    parts[2].unlink()
    with pytest.raises(CheckpointError, match=f"{parts[2].name} is missing"):
        open_source(parts[0])


def test_the_metadata_is_kept_for_the_importer_of_texts(tmp_path: Path) -> None:
    theirs = save_tiny(CASES["llama"][1], tmp_path / "source")

    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_token_list(["a", "é"])
        writer.add_token_scores([0.5, -1.0])
        writer.add_add_bos_token(True)
        writer.add_bos_token_id(1)

    write_gguf(theirs, tmp_path / "model.gguf", "llama", extra=extra)
    fields = open_source(tmp_path / "model.gguf").fields
    assert fields is not None
    assert fields["tokenizer.ggml.tokens"] == ["a", "é"]
    assert fields["tokenizer.ggml.scores"] == [0.5, -1.0]
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.bos_token_id"] == 1


def ones(writer: gguf.GGUFWriter, name: str) -> None:
    writer.add_tensor(name, np.ones(16, np.float32))


# What is added to, or taken from, the file of a case; and the reason to give.
CHANGES: dict[str, tuple[str, Callable[[gguf.GGUFWriter], Any], str]] = {
    "granite without positions": (
        "granite",
        lambda writer: writer.add_bool("granite.rope.scaling.finetuned", False),
        "it has no positions",
    ),
    "layers with other numbers of heads": (
        "granite 4, dense",
        lambda writer: writer.add_head_count_kv([2, 2, 4]),
        r"head_count_kv is \[2, 2, 4\]: only layers with the same number are known",
    ),
    "heads of too few layers": (
        "granite 4, dense",
        lambda writer: writer.add_head_count_kv([2, 2]),
        "only layers with the same number are known",
    ),
    "experts": ("granite 4, dense", lambda writer: writer.add_expert_count(4), "expert_count is 4"),
    "falcon in another order": (
        "falcon 7b",
        lambda writer: writer.add_tensor_data_layout("other"),
        "in an unknown order",
    ),
    "windows of another base": (
        "olmo3",
        lambda writer: writer.add_rope_freq_base_swa(5.0),
        "freq_base_swa is 5.0",
    ),
    "norms of queries": (
        "stablelm",
        lambda writer: ones(writer, "blk.0.attn_q_norm.weight"),
        "qk_layernorm is True",
    ),
    "norms of Command R's queries": (
        "command-r",
        lambda writer: ones(writer, "blk.0.attn_q_norm.weight"),
        "use_qk_norm is True",
    ),
    "two scalings": (
        "llama yarn, wide heads",
        lambda writer: ones(writer, "rope_freqs.weight"),
        "although there is rope_freqs",
    ),
    "a part of yarn": (
        "llama yarn, wide heads",
        lambda writer: writer.add_rope_scaling_yarn_ext_factor(0.5),
        "yarn_ext_factor is 0.5",
    ),
    "long factors without short ones": (
        "llama",
        lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE),
        "'longrope'",
    ),
    "an unknown window": (
        "phi3 with windows",
        lambda writer: writer.kv_data[0].pop("phi3.attention.sliding_window"),
        "sliding_window is missing",
    ),
    "an unknown share": (
        "phi2",
        lambda writer: writer.kv_data[0].pop("phi2.rope.dimension_count"),
        "dimension_count is missing",
    ),
    "too few factors": (
        "llama",
        lambda writer: ones(writer, "rope_freqs.weight"),
        "short_factor must have 8 numbers",
    ),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_an_architecture_cannot_have_is_refused_by_name(tmp_path: Path, name: str) -> None:
    case, change, reason = CHANGES[name]
    architecture, config = CASES[case]
    theirs = save_tiny(config, tmp_path / "source")
    write_gguf(theirs, tmp_path / "model.gguf", architecture, extra=change)
    with pytest.raises(CheckpointError, match=reason):
        look(open_source(tmp_path / "model.gguf"))


def test_a_gemma_3_that_does_not_say_so_turns_by_10000_within_windows(tmp_path: Path) -> None:
    theirs = save_tiny(CASES["gemma3"][1], tmp_path / "source")
    base = "gemma3.rope.freq_base_swa"
    write_gguf(
        theirs, tmp_path / "model.gguf", "gemma3", extra=lambda writer: writer.kv_data[0].pop(base)
    )
    ours, _ = imported(tmp_path / "model.gguf", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


def test_a_share_of_a_head_is_not_rounded_down(tmp_path: Path) -> None:
    config = new("Phi", hidden_size=176, num_key_value_heads=4)  # 44 * (30 / 44) is below 30
    config.rope_parameters = rope(10000.0, 30.1 / 44)
    theirs = save_tiny(config, tmp_path / "source")
    write_gguf(theirs, tmp_path / "model.gguf", "phi2")
    found = look(open_source(tmp_path / "model.gguf"))
    assert sum(angle > 0 for angle in found.config.kinds[0].rotary) == 15


def test_the_largest_gemmas_scale_their_scores_by_the_share_of_the_stream(tmp_path: Path) -> None:
    """GGUF does not say it; llama.cpp tells these models by their number of layers."""
    config = new("Gemma2", **{**GEMMA, "query_pre_attn_scalar": 16}, num_hidden_layers=46)
    theirs = save_tiny(config, tmp_path / "source")
    write_gguf(theirs, tmp_path / "model.gguf", "gemma2")
    found = look(open_source(tmp_path / "model.gguf"))
    assert found.config.attention_scale == 16**-0.5
