"""Families with LayerNorm: imported, they compute what transformers computes."""

import re
from pathlib import Path

import llama_configs
import pair_configs
import pytest
import rmsnorm_configs
import torch
from layernorm_configs import CASES, DEFAULTS, HUB, KEPT, WIDE_HEADS
from safetensors.torch import load_file, save_file
from tiny_checkpoints import LIMIT, error, imported, same_greedy_text, save_tiny
from transformers import XGLMConfig
from transformers.activations import ACT2FN
from transformers.models.auto import modeling_auto

from edgegpt.errors import CheckpointError
from edgegpt.importers.architectures import FAMILIES, REFUSED
from edgegpt.importers.family import ACTIVATIONS, longest
from edgegpt.importers.pickles import PickledTensors
from edgegpt.importers.run import look
from edgegpt.importers.settings import SourceSettings
from edgegpt.importers.source import Source
from edgegpt.model import GPTConfig
from edgegpt.model.layers import FeedForward


@pytest.mark.parametrize("name", list(CASES))
def test_an_imported_model_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert same_greedy_text(theirs, ours)
    assert found.notes == []


@pytest.mark.parametrize("name", list(WIDE_HEADS))
def test_idle_angles_make_their_number_a_multiple_of_8(tmp_path: Path, name: str) -> None:
    theirs = save_tiny(WIDE_HEADS[name], tmp_path / "source")
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert {len(kind.rotary) for kind in ours.config.kinds} == {8}


@pytest.mark.parametrize("padding", [2, 95, -1])
def test_the_padding_of_xglm_empties_the_row_of_a_position(tmp_path: Path, padding: int) -> None:
    config = XGLMConfig(**{**CASES["xglm"].to_dict(), "pad_token_id": padding})
    theirs = save_tiny(config, tmp_path / "source")
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours, length=128) <= LIMIT
    empty = [row for row, values in enumerate(ours.position_embedding.weight) if not values.any()]
    assert empty == [127 if padding < 0 else padding - 2]


@pytest.mark.parametrize("name", list(HUB))
def test_settings_as_the_hub_has_them_mean_the_same(tmp_path: Path, name: str) -> None:
    config, changes = HUB[name]
    theirs = save_tiny(config, tmp_path / "source", changes)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_setting_that_is_absent_has_the_default_of_its_family(tmp_path: Path, name: str) -> None:
    absent = dict.fromkeys(CASES[name].to_dict().keys() - KEPT)
    theirs = save_tiny(CASES[name], tmp_path / "source", absent)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert ours.config.norm_eps == 1e-5


def _rename(folder: Path, prefix: str, extra: list[str]) -> None:
    """Save the weights without `prefix`, and with `extra` tensors that hold nothing trained."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix(prefix): value for name, value in load_file(path).items()}
    save_file(tensors | {name: torch.ones(1, 1, 4, 4).tril() for name in extra}, path)


@pytest.mark.parametrize(
    ("name", "prefix", "extra"),
    [
        ("gpt2", "transformer.", ["h.0.attn.bias", "h.2.attn.masked_bias"]),
        ("gpt2", "", ["transformer.h.0.attn.bias"]),
        ("gpt_neo", "", ["transformer.h.1.attn.attention.bias"]),
        ("gptj", "", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("codegen", "", ["transformer.h.0.attn.causal_mask"]),
        (
            "gpt_neox",
            "",
            [
                "gpt_neox.layers.0.attention.bias",
                "gpt_neox.layers.0.attention.masked_bias",
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
            ],
        ),
        ("opt", "model.", []),
        ("xglm", "", ["model.embed_positions.weights"]),
        ("xglm", "model.", ["embed_positions.weights"]),
        ("falcon 7b", "", ["transformer.h.0.self_attention.rotary.inv_freq"]),
    ],
)
def test_names_of_tensors_as_the_hub_has_them_are_known(
    tmp_path: Path, name: str, prefix: str, extra: list[str]
) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    _rename(tmp_path / "source", prefix, extra)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


@pytest.mark.parametrize(
    ("name", "widened"),
    [
        ("gpt_neox", set()),
        ("cohere", {"norm_final"}),
        ("nemotron", {"norm_1", "norm_2", "norm_final"}),
        ("gpt2 scaled by layer", {"attention.qkv"}),
        ("xglm", {"position_embedding"}),
    ],
)
def test_what_is_folded_into_bfloat16_loses_nothing(
    tmp_path: Path, name: str, widened: set[str]
) -> None:
    theirs = save_tiny(CASES[name], tmp_path / "source")
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16().float()
    path = tmp_path / "source" / "model.safetensors"
    save_file({each: value.bfloat16() for each, value in load_file(path).items()}, path)
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    wide = [each for each, dtype in found.dtypes.items() if dtype != torch.bfloat16]
    assert {re.sub(r"^blocks\.\d+\.|\.(weight|bias)$", "", each) for each in wide} == widened


def test_a_mask_where_the_family_has_none_is_refused(tmp_path: Path) -> None:
    save_tiny(CASES["phi"], tmp_path / "source")
    _rename(tmp_path / "source", "", ["model.layers.0.self_attn.bias"])
    with pytest.raises(CheckpointError, match=r"nothing in the model takes .*self_attn\.bias"):
        imported(tmp_path / "source", tmp_path / "checkpoint")


def _settings(name: str, **changes: object) -> Source:
    """Return a source with the settings of a case and no tensors."""
    settings = {**CASES[name].to_dict(), **changes}
    return Source("tiny", settings, "config.json", PickledTensors({}))


@pytest.mark.parametrize(
    ("name", "setting", "value", "reason"),
    [
        ("gpt2", "add_cross_attention", True, "it attends to an encoder"),
        ("gpt2", "activation_function", "quick_gelu", "the activation 'quick_gelu' is not known"),
        ("gpt2", "hidden_size", 32, "hidden_size is 32, but n_embd 64"),
        ("gpt2", "n_inner", 0, "n_inner is 0, which is not a whole number of 1 or more"),
        ("gpt2", "scale_attn_by_head", True, "the setting scale_attn_by_head is not known"),
        ("gpt_neo", "attention_layers", ["global"], "for each of the 4 layers"),
        ("gpt_neo", "attention_layers", ["global", "block"] * 2, "not global or local"),
        ("gptj", "rotary", False, "no other positions"),
        ("gptj", "rotary_dim", 64, "rotary_dim is 64, which is not an even part"),
        ("codegen", "n_head", 2, "2 heads are not a multiple of 4"),
        ("gpt_neox", "rope_parameters", {"rope_type": "fire"}, "the rope type 'fire' is not known"),
        ("opt", "do_layer_norm_before", False, "norms after the additions"),
        ("opt", "word_embed_proj_dim", 16, "projects its embedding"),
        ("opt", "_remove_final_layer_norm", True, "lacks the norm before the head"),
        ("opt", "learned_embeddings", False, "positions are not in the weights"),
        ("xglm", "add_cross_attention", True, "it attends to an encoder"),
        ("xglm of odd width", "d_model", 3, "d_model is 3: sines of two frequencies need 4"),
        ("xglm", "max_position_embeddings", 10**12, "computes up to 65536 positions"),
        ("xglm", "pad_token_id", 130, "not one of the 130 rows"),
        ("xglm", "pad_token_id", 0.5, "not one of the 130 rows"),
        ("phi", "qk_layernorm", True, "normalises queries and keys by LayerNorm"),
        ("falcon 7b", "alibi", True, "ALiBi"),
        ("falcon 7b", "apply_residual_connection_post_layernorm", True, "normalised stream"),
        ("falcon 7b", "num_ln_in_parallel_attn", 2, "no such norms"),
        ("starcoder2", "mlp_type", "gated", "without a gate"),
        ("starcoder2", "norm_type", "rms_norm", "only LayerNorm"),
        ("stablelm", "qk_layernorm", True, "normalises queries and keys by LayerNorm"),
        ("cohere", "use_qk_norm", True, "normalises queries and keys by LayerNorm"),
        ("cohere2", "sliding_window", None, "would leave the model without positions"),
        ("cohere2", "use_parallel_block", False, "known with True only"),
        ("cohere2", "layer_types", ["chunked_attention"] * 4, "not a known type of attention"),
        ("olmo", "clip_qkv", 8.0, "clips queries, keys and values"),
    ],
)
def test_what_the_model_cannot_compute_is_refused_by_name(
    name: str, setting: str, value: object, reason: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        look(_settings(name, **{setting: value}))
    message = str(caught.value)
    assert message.startswith("config.json: ")
    assert reason in message
    assert re.search(setting.split("_")[0], message)


@pytest.mark.parametrize("types", [[[["global"], 10**15]], [["global", "local"]], [7]])
def test_hostile_types_of_attention_are_refused_at_once(types: object) -> None:
    with pytest.raises(CheckpointError, match="not a list and how often"):
        look(_settings("gpt_neo", attention_layers=None, attention_types=types))


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mixtral", "mixture of experts"),
        ("bloom", "ALiBi"),
        ("mamba", "a state that is not a cache"),
        ("persimmon", "LayerNorm"),
        ("bert", "does not generate text"),
        ("blenderbot-small", "normalises the embeddings before it adds the positions"),
        ("fsmt", "not those of BART or T5"),
        ("longt5", "not those of BART or T5"),
        ("t5gemma", "not those of BART or T5"),
        ("switch_transformers", "mixture of experts"),
        ("moonshine", "reads sound"),
        ("whisper", "reads sound"),
        ("llava", "`--text-only` imports its language model alone"),
        ("mllama", "only models of text"),
    ],
)
def test_a_known_family_that_cannot_be_imported_is_refused_with_its_reason(
    model_type: str, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=f"cannot import the family {model_type}: .*{reason}"):
        look(_settings("olmo", model_type=model_type))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_one_that_transformers_has_by_that_name(name: str) -> None:
    x = torch.linspace(-4, 4, 81)
    config = GPTConfig(34, 8, 1, 1, 8, activation=ACTIVATIONS[name])
    torch.testing.assert_close(
        FeedForward(config)._activated(x), ACT2FN[name](x), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "name", ["max_position_embeddings", "n_positions", "max_sequence_length", "block_size"]
)
def test_the_longest_text_has_several_names(name: str) -> None:
    assert longest(SourceSettings({name: 7}, "config.json")) == 7


def test_every_family_but_the_file_formats_is_compared_with_transformers() -> None:
    cases = CASES | llama_configs.CASES | rmsnorm_configs.CASES | pair_configs.CASES
    compared = {config.model_type for config in cases.values()}
    compared |= {changes.get("model_type") for _, changes in HUB.values()}  # other names
    assert set(FAMILIES) - compared == {
        "nanogpt",
        "lesson",
        "nn.Transformer",
        "lesson-seq2seq",
    }


def test_no_family_is_refused_and_known_at_once() -> None:
    assert not set(FAMILIES) & set(REFUSED)


@pytest.mark.parametrize(
    "table",
    [
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    ],
)
def test_what_generates_text_in_transformers_is_known_or_refused_with_a_reason(table: str) -> None:
    assert set(getattr(modeling_auto, table)) - set(FAMILIES) - set(REFUSED) == set()
