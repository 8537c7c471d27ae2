"""What cannot be imported is refused in one sentence that names it, before anything is written."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import SIZES, imported, save_tiny
from transformers import LlamaConfig

from edgegpt.errors import CheckpointError
from edgegpt.importers.huggingface import open_folder
from edgegpt.importers.importing import Named, opened
from edgegpt.importers.run import look

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that can be imported."""
    save_tiny(LlamaConfig(**SIZES), tmp_path / "source")
    return tmp_path / "source"


def refusal(folder: Path) -> str:
    """Return the message with which `look` refuses the folder; nothing new may lie in it."""
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError) as caught:
        look(open_folder(folder))
    assert sorted(folder.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"model_type": "mamba2"}, "mamba2: some of its layers keep a state"),
        ({"model_type": "made_up"}, "'made_up' is not a known family"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": ["llama"]}, "not a known family"),
        ({"num_local_experts": 8}, "num_local_experts is 8: it is a mixture of experts"),
        ({"alibi": True}, "alibi is True: it has ALiBi positions"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised already"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"sandwich_norm": True}, "the setting sandwich_norm is not known"),
        ({"a": 1, "b": 2}, "the settings a, b are not known"),
        (
            {f"k{n}": n for n in range(9)},
            "the settings k0, k1, k2, k3, k4 and 4 more are not known",
        ),
        ({"a\n\x1b[31m": 1}, r"the setting 'a\n\x1b[31m' is not known"),
        ({"x" * 9999: 1}, f"the setting '{'x' * 200}'... is not known"),
        ({"hidden_act": "swiglu_oai"}, "activation 'swiglu_oai' is not known"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope type 'spiral' is not known"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "twist": 1}},
            "rope parameters: the setting twist is not known",
        ),
        ({"num_attention_heads": 3, "head_dim": None}, "64 is not a multiple of the 3 heads"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ({"num_key_value_heads": 3}, "not a multiple of n_kv_head"),
        ({"rms_norm_eps": -1.0}, "norm_eps is -1.0"),
        ({"attention_bias": "yes"}, "attention_bias is 'yes'"),
        ({"hidden_size": None}, "the setting hidden_size is missing"),
        ({"auto_map": {"AutoModelForCausalLM": "own.Model"}}, "auto_map names code of its own"),
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}},
            r"its own code (auto_map) is never run",
        ),
    ],
)
def test_a_setting_that_cannot_be_kept_is_named(
    folder: Path, changes: dict[str, object], named: str
) -> None:
    (folder / "own.py").write_text("raise SystemExit('this code was run')")
    set_config(folder, **changes)
    message = refusal(folder)
    assert named in message
    assert str(folder / "config.json") in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight"),
        (
            lambda t: t.update({"model.extra": torch.ones(2)}),
            "nothing in the model takes model.ext",
        ),
        (
            lambda t: t.update({"model.layers.3.mlp.up_proj.weight": torch.ones(48, 64)}),
            "model.layers.3.mlp.up_proj.weight",
        ),
        (
            lambda t: t.update({"model.layers.2.self_attn.k_proj.weight": torch.ones(64, 64)}),
            r"k_proj.weight has the shape [64, 64]; by the settings it should have [32, 64]",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}), "type I8"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_as_the_source_names_it(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], named: str
) -> None:
    set_weights(folder, change)
    with pytest.raises(CheckpointError) as caught:
        _ = look(open_folder(folder)).dtypes
    assert named in str(caught.value)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u202eb", "x" * 201])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_name_that_would_spoil_a_message_is_refused(
    folder: Path, name: str, *, pickled: bool
) -> None:
    set_weights(folder, lambda tensors: tensors.update({name: torch.ones(2)}))
    if pickled:
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    message = refusal(folder)
    assert "is not a name" in message
    assert message.isprintable()


def test_a_missing_tensor_is_named_with_the_settings_that_call_for_it(folder: Path) -> None:
    set_config(folder, num_hidden_layers=4)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: the checkpoint lacks model.layers.3.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_tensor(
    folder: Path, tmp_path: Path, value: float
) -> None:
    name = "model.layers.1.self_attn.v_proj.weight"
    set_weights(folder, lambda tensors: tensors[name].view(-1)[5:6].fill_(value))
    with pytest.raises(CheckpointError, match=f"{name} has values that are not finite"):
        imported(folder, tmp_path / "out")
    assert not (tmp_path / "out" / WEIGHTS).exists()


def damaged(data: bytes) -> dict[str, bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return {
        "empty": b"",
        "cut off": data[:-40],
        "no header": data[:6],
        "a header that is too long": struct.pack("<Q", 1 << 40) + data[8:],
        "no JSON": data[:8] + b"x" * length + data[8 + length :],
        "text": b"The weights are on the other disk.\n",
    }


@pytest.mark.parametrize("kind", list(damaged(struct.pack("<Q", 0))))
def test_a_damaged_weight_file_is_refused(folder: Path, kind: str) -> None:
    path = folder / WEIGHTS
    path.write_bytes(damaged(path.read_bytes())[kind])
    assert f"{path} is damaged or cut off" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({"weight_map": {"a": "gone.safetensors"}}, "names gone.safetensors, which is missing"),
        ({"weight_map": {"a": "../source/model.safetensors"}}, "not a file of its folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not a file of its folder"),
        ({"weight_map": {"a": 3}}, "not a file of its folder"),
        ({"weight_map": {"a": "a\x1b[31m"}}, "is not a name"),
        ({"weight_map": ["a"]}, "is not an index"),
        ({"weight_map": {}}, "is not an index"),
        ({}, "is not an index"),
        ([], "is not a JSON object"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, index: object, named: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps(index))
    assert named in refusal(folder)


def split(folder: Path) -> None:
    """Write the weights of a checkpoint a second time, in two parts with an index."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / shard)
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_read_as_one_checkpoint(folder: Path, tmp_path: Path) -> None:
    whole, _ = imported(folder, tmp_path / "whole")
    split(folder)
    (folder / WEIGHTS).unlink()
    model, _ = imported(folder, tmp_path / "shards")
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("left", ["all", "one", "none"])
def test_one_file_is_read_before_its_parts_which_may_be_gone(
    folder: Path, tmp_path: Path, left: str
) -> None:
    whole, _ = imported(folder, tmp_path / "whole")
    split(folder)
    for gone in {"all": "", "one": "b", "none": "ab"}[left]:
        (folder / f"{gone}.safetensors").unlink()
    model, found = imported(folder, tmp_path / "twice")
    assert found.notes == []
    assert {found.source.tensors.place(name) for name in found.source.tensors.shapes} == {
        str(folder / WEIGHTS)
    }
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_an_index_that_leads_to_the_one_file_is_silent(folder: Path, tmp_path: Path) -> None:
    names = load_file(folder / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    assert imported(folder, tmp_path / "out")[1].notes == []


def test_an_index_beside_weights_of_other_names_is_refused(folder: Path) -> None:
    split(folder)
    set_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert f"{INDEX} beside it are of different weights: only one of them has lm_head" in (
        refusal(folder)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model.norm.weight"].add_(1),
        lambda t: t.update({"model.norm.weight": t["model.norm.weight"].bfloat16()}),
    ],
    ids=["values", "type"],
)
def test_parts_that_differ_from_the_one_file_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    split(folder)
    set_weights(folder, change)
    with pytest.raises(CheckpointError) as caught:
        imported(folder, tmp_path / "out")
    assert f"{folder / WEIGHTS} and {folder / 'b.safetensors'} differ in model.norm.weight" in (
        str(caught.value)
    )


def test_a_pickled_state_dict_is_read(folder: Path, tmp_path: Path) -> None:
    whole, _ = imported(folder, tmp_path / "whole")
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    model, _ = imported(folder, tmp_path / "pickled")
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


class Trap:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    sprung = tmp_path / "sprung"
    torch.save({"a": Trap(sprung)}, folder / "pytorch_model.bin")
    assert "which could run code" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap(sprung)}, protocol=2))
    assert "which could run code" in refusal(folder)
    assert not sprung.exists()


def test_a_folder_without_weights_or_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert "has no weights" in refusal(folder)
    (folder / "config.json").unlink()
    assert "config.json is missing" in refusal(folder)
    (folder / "config.json").symlink_to(folder / "config.json")
    assert "config.json cannot be read: Too many levels" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"a": 1e999}x'])
def test_settings_that_are_no_json_object_are_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json is not" in refusal(folder)


def test_a_tied_head_that_is_stored_again_must_be_the_embedding(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    save_tiny(LlamaConfig(**SIZES, tie_word_embeddings=True), folder)
    head = {"lm_head.weight": load_file(folder / WEIGHTS)["model.embed_tokens.weight"].clone()}
    set_weights(folder, lambda tensors: tensors.update(head))
    imported(folder, tmp_path / "equal")
    head["lm_head.weight"][0, 0] += 1
    set_weights(folder, lambda tensors: tensors.update(head))
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tokens"):
        imported(folder, tmp_path / "different")


def test_a_checkpoint_of_edgegpt_needs_no_import(folder: Path, tmp_path: Path) -> None:
    imported(folder, tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="is a checkpoint of edgegpt already; export it"):
        opened(Named(str(tmp_path / "checkpoint")))
