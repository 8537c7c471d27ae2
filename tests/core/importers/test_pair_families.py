"""Families of encoder-decoders: imported, they compute what transformers computes."""

from pathlib import Path

import pytest
import torch
from pair_configs import CASES, T5, error, imported, save_pair
from safetensors.torch import load_file, save_file
from tiny_checkpoints import LIMIT
from torch import Tensor

from edgegpt.errors import CheckpointError
from edgegpt.importers.importing import Named, survey
from edgegpt.importers.pickles import PickledTensors
from edgegpt.importers.run import look
from edgegpt.importers.source import Source


@pytest.mark.parametrize("name", list(CASES))
def test_an_imported_pair_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    theirs = save_pair(CASES[name], tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert found.notes == []


def _change(folder: Path, *without: str, **added: Tensor) -> None:
    """Save the weights again, without some tensors, and with more; "__" stands for "."."""
    path = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if name not in without}
    save_file(kept | {name.replace("__", "."): value for name, value in added.items()}, path)


@pytest.mark.parametrize("name", ["marian", "pegasus"])
def test_sines_that_an_older_file_holds_are_taken(tmp_path: Path, name: str) -> None:
    theirs = save_pair(CASES[name], tmp_path / "source")
    tables = {
        f"model__{side}__embed_positions__weight": 2 * module.embed_positions.weight.detach()
        for side, module in (("encoder", theirs.model.encoder), ("decoder", theirs.model.decoder))
    }
    _change(tmp_path / "source", **tables)
    for side in (theirs.model.encoder, theirs.model.decoder):
        side.embed_positions.weight.data *= 2
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


@pytest.mark.parametrize("name", ["marian", "pegasus"])
def test_sines_that_a_file_lacks_are_computed(tmp_path: Path, name: str) -> None:
    theirs = save_pair(CASES[name], tmp_path / "source")
    tables = (f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder"))
    _change(tmp_path / "source", *tables)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


@pytest.mark.parametrize("name", ["bart", "m2m_100"])
def test_copies_of_the_embedding_must_be_equal_to_it(tmp_path: Path, name: str) -> None:
    theirs = save_pair(CASES[name], tmp_path / "source")
    copy = theirs.model.shared.weight.detach()
    names = ("model__encoder__embed_tokens__weight", "model__decoder__embed_tokens__weight")
    _change(tmp_path / "source", lm_head__weight=copy.clone(), **{n: copy.clone() for n in names})
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    _change(tmp_path / "source", lm_head__weight=copy + 1)
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight differs from model\.shared\.weight"
    ):
        imported(tmp_path / "source", tmp_path / "other")


def test_a_file_may_hold_the_embedding_under_another_name(tmp_path: Path) -> None:
    theirs = save_pair(CASES["t5"], tmp_path / "source")
    table = theirs.shared.weight.detach()
    _change(tmp_path / "source", "shared.weight", decoder__embed_tokens__weight=table)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


def test_a_file_without_the_bias_of_logits_has_none(tmp_path: Path) -> None:
    theirs = save_pair(CASES["bart"], tmp_path / "source")
    _change(tmp_path / "source", "final_logits_bias")
    theirs.final_logits_bias.zero_()
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert ours.decoder.head.bias is None


def test_a_file_without_the_prefix_of_a_model_with_a_head_is_known(tmp_path: Path) -> None:
    theirs = save_pair(CASES["bart"], tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    tensors = load_file(path)
    save_file({name.removeprefix("model."): value for name, value in tensors.items()}, path)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT


@pytest.mark.parametrize(
    ("name", "changes", "scaled"),
    [
        ("t5", {"scale_decoder_outputs": None, "tie_word_embeddings": None}, True),
        ("t5 v1.1", {"scale_decoder_outputs": None, "tie_word_embeddings": False}, False),
        ("t5 v1.1", {"scale_decoder_outputs": False, "tie_word_embeddings": True}, False),
        ("t5 v1.1", {"dense_act_fn": None, "is_gated_act": None}, False),
        ("umt5", {"scale_decoder_outputs": None, "tie_word_embeddings": False}, False),
        ("mt5", {"tie_word_embeddings": True}, False),
    ],
)
def test_both_dialects_say_whether_t5_scales_its_logits(
    tmp_path: Path, name: str, changes: dict[str, object], scaled: bool
) -> None:
    theirs = save_pair(CASES[name], tmp_path / "source", changes)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert ours.config.decoder.tie_embeddings is scaled
    norm = theirs.decoder.final_layer_norm.weight
    expected = norm * T5["d_model"] ** -0.5 if scaled else norm
    torch.testing.assert_close(ours.decoder.norm_final.weight, expected)


def test_a_pair_in_bfloat16_stays_so_where_nothing_is_folded(tmp_path: Path) -> None:
    save_pair(CASES["t5"], tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    _, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    wide = [name for name, dtype in found.dtypes.items() if dtype != torch.bfloat16]
    assert wide == ["decoder.norm_final.weight"]


def test_the_settings_of_a_family_count_where_the_file_says_nothing(tmp_path: Path) -> None:
    save_pair(CASES["marian"], tmp_path / "source", {"forced_eos_token_id": None})
    (tmp_path / "source" / "generation_config.json").unlink(missing_ok=True)
    assert survey(Named(str(tmp_path / "source"))).text.usage.search.forced_eos == 0


@pytest.mark.parametrize(
    ("name", "setting", "value", "reason"),
    [
        ("marian", "normalize_before", True, "norms are at other places"),
        ("marian", "transformer-decoder-autoreg", "rnn", "a recurrent unit (SSRU)"),
        ("marian", "static_position_embeddings", False, "positions are sines"),
        ("marian", "max_position_embeddings", 10**12, "computes up to 65536 positions"),
        ("bart", "is_encoder_decoder", False, "only its decoder is there"),
        ("bart", "tie_encoder_decoder", True, "its two stacks share their layers"),
        ("bart", "activation_function", "quick_gelu", "'quick_gelu' is not known"),
        ("bart", "window", 3, "the setting window is not known"),
        ("mbart", "normalize_embedding", False, "the other value only"),
        ("m2m_100", "pad_token_id", 999, "not one of the positions"),
        ("t5", "feed_forward_proj", "gated-tanh", "'tanh' is not known"),
        ("t5", "num_experts", 4, "a mixture of experts"),
        ("t5", "is_encoder_decoder", False, "only one of its stacks is there"),
    ],
)
def test_what_a_pair_cannot_compute_is_refused_by_name(
    name: str, setting: str, value: object, reason: str
) -> None:
    settings = {**CASES[name].to_dict(), setting: value}
    if name == "t5":
        settings |= {"dense_act_fn": None}
    with pytest.raises(CheckpointError) as caught:
        look(Source("tiny", settings, "config.json", PickledTensors({})))
    assert str(caught.value).startswith("config.json: ")
    assert reason in str(caught.value)


def test_a_tensor_of_another_model_is_refused(tmp_path: Path) -> None:
    save_pair(CASES["bart"], tmp_path / "source")
    _change(tmp_path / "source", classification_head__dense__weight=torch.ones(2, 2))
    with pytest.raises(CheckpointError, match="nothing in the model takes classification_head"):
        imported(tmp_path / "source", tmp_path / "checkpoint")
