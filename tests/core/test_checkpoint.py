"""Checkpoint folders: what is saved comes back, and every defect is refused by name."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgegpt.checkpoint import is_checkpoint, load_checkpoint, save_config, save_weights
from edgegpt.errors import CheckpointError
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Defaults, Usage

SIZES = {"vocab_size": 7, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}
VARIANTS = {
    "char": {"head_bias": True},
    "tied": {"tie_embeddings": True, "qkv_bias": True},
    "llama": {
        "norm": "rmsnorm",
        "position": "rope",
        "activation": "silu",
        "gated": True,
        "n_kv_head": 1,
    },
}


def write(folder: Path, dtype: torch.dtype = torch.float32, **changes: object) -> GPT:
    """Write a checkpoint of a random model and return the model."""
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_dict(SIZES | changes))
    folder.mkdir()
    save_config(folder, model.config)
    save_weights(folder, model, dtype)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid checkpoint."""
    write(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def change_weights(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_float32_comes_back_exactly(tmp_path: Path, variant: str):
    model = write(tmp_path / "c", **VARIANTS[variant])
    loaded = load_checkpoint(tmp_path / "c").model
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    ids = torch.randint(0, 7, (2, 16))
    assert torch.equal(loaded(ids), model.eval()(ids))


def test_float16_comes_back_as_the_nearest_half(tmp_path: Path):
    model = write(tmp_path / "c", torch.float16)
    stored = load_file(tmp_path / "c" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    for name, tensor in load_checkpoint(tmp_path / "c").model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float()), name


def test_a_loaded_model_is_in_eval_mode(tmp_path: Path):
    write(tmp_path / "c", dropout=0.5)
    assert not load_checkpoint(tmp_path / "c").model.training


def test_a_tied_head_is_not_repeated_and_still_tied_afterwards(tmp_path: Path):
    write(tmp_path / "c", tie_embeddings=True, head_bias=True)
    stored = load_file(tmp_path / "c" / "model.safetensors")
    assert "head.weight" not in stored
    assert "head.bias" in stored
    loaded = load_checkpoint(tmp_path / "c").model
    assert loaded.head.weight is loaded.token_embedding.weight
    assert torch.equal(loaded.head.weight, stored["token_embedding.weight"])


def test_texts_come_back_with_their_line_ends(folder: Path):
    (folder / "tokenizer.json").write_bytes(b'{"a":\r\n 1}\r')
    (folder / "held_out.txt").write_bytes("größer\r\nals\n\r\n".encode())
    checkpoint = load_checkpoint(folder)
    assert checkpoint.tokenizer_json == '{"a":\r\n 1}\r'
    assert checkpoint.held_out == "größer\r\nals\n\r\n"


def test_a_checkpoint_without_texts_is_good(folder: Path):
    checkpoint = load_checkpoint(folder)
    assert checkpoint.tokenizer_json is None
    assert checkpoint.held_out is None
    assert (checkpoint.usage, checkpoint.source) == (None, None)
    assert (checkpoint.chat_template, checkpoint.license, checkpoint.card) == (None, None, None)


@pytest.mark.parametrize("version", [1, 2])
def test_what_the_source_says_comes_back(folder: Path, version: int):
    usage = Usage((1,), (2, 3), 0, Defaults(temperature=0.5, top_k=4), {"eos_token": "</s>"})
    source = Source("llama", "someone/model", "mit")
    save_config(folder, load_checkpoint(folder).model.config, usage, source)
    change_config(folder, lambda document: document.update(format_version=version))
    texts = {"chat_template.jinja": "{{ x }}\n", "LICENSE": "Do.\r\n", "MODEL_CARD.md": "# größer"}
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.usage, checkpoint.source) == (usage, source)
    assert [checkpoint.chat_template, checkpoint.license, checkpoint.card] == list(texts.values())


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("usage", [], r"config\.json: usage is a list, not a table"),
        ("usage", asdict(Usage(end_ids=(7,))), r"names the id 7, which is not in the vocabulary"),
        ("source", {"family": 3, "name": None, "license": None}, "source: family has a whole"),
    ],
)
def test_what_the_source_cannot_have_said_is_refused(folder: Path, key: str, value, named: str):
    change_config(folder, lambda document: document.update({key: value}))
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "LICENSE", "MODEL_CARD.md"])
def test_a_text_too_long_to_be_taken_along_is_refused(folder: Path, name: str):
    with (folder / name).open("wb") as file:
        file.truncate(2**22 + 1)
    with pytest.raises(CheckpointError, match=f"{name} has 4,194,305 bytes; at most"):
        load_checkpoint(folder)


def test_saving_leaves_no_other_files(folder: Path):
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_missing_folder_is_refused(tmp_path: Path):
    (tmp_path / "edgegpt.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a bundle, not a checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=f"no checkpoint folder at {tmp_path / 'none'}"):
        load_checkpoint(tmp_path / "none")


def test_a_file_in_place_of_the_folder_is_refused(folder: Path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_checkpoint(folder / "config.json")


def test_a_folder_without_config_is_refused(folder: Path):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("raw", [b"", b"{", b"not JSON", b'{"model": }'])
def test_a_config_that_is_not_json_is_refused(folder: Path, raw: bytes):
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        load_checkpoint(folder)


def test_a_config_that_is_not_text_is_refused(folder: Path):
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match=r"config\.json is not UTF-8"):
        load_checkpoint(folder)


@pytest.mark.parametrize("raw", ["[]", "3", "[" * 100_000, '{"model": ' + "9" * 10_000 + "}"])
def test_a_config_that_is_no_table_is_refused(folder: Path, raw: str):
    (folder / "config.json").write_text(raw)
    with pytest.raises(CheckpointError, match=r"config\.json is not (a JSON object|readable JSON)"):
        load_checkpoint(folder)
    assert not is_checkpoint(folder)


@pytest.mark.parametrize("size", [10**18, 2**63, 10**400, 10**4000])
@pytest.mark.parametrize("key", ["vocab_size", "block_size", "n_head", "n_embd", "n_ff"])
def test_a_size_that_no_tensor_can_have_is_refused(folder: Path, key: str, size: int):
    change_config(folder, lambda document: document["model"].update({key: size}))
    with pytest.raises(
        CheckpointError, match=r"more than 63 bits|is too large|a multiple of"
    ) as caught:
        load_checkpoint(folder)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["norm_eps", "attention_scale", "head_dim"])
def test_a_number_beyond_all_floats_is_refused(folder: Path, key: str):
    change_config(folder, lambda document: document["model"].pop("attention_scale"))
    change_config(folder, lambda document: document["model"].update({key: 10**400}))
    with pytest.raises(CheckpointError, match=f"{key} is a whole number of more than 63 bits"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "held_out.txt", "LICENSE"]
)
def test_a_pipe_in_place_of_a_file_is_refused(folder: Path, name: str):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} is a pipe, where a file belongs"):
        load_checkpoint(folder)
    assert is_checkpoint(folder) == (name != "config.json")


@pytest.mark.parametrize("raw", ["{}", '{"format_version": 1, "model": 5}'])
def test_a_config_of_something_else_is_refused(folder: Path, raw: str):
    (folder / "config.json").write_text(raw)
    with pytest.raises(CheckpointError, match="not a checkpoint of edgegpt"):
        load_checkpoint(folder)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_an_unknown_format_version_is_refused(folder: Path, version: object):
    change_config(folder, lambda document: document.update(format_version=version))
    with pytest.raises(CheckpointError, match=f"format version {version!r}; this edgegpt reads 1 "):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ({"bias": True, "attention_scale": "head_dim", "activation": "relu"}, {}),
        (
            {"bias": False, "attention_scale": "n_embd", "activation": "swiglu"},
            {
                **dict.fromkeys(["norm_bias", "proj_bias", "ff_bias"], False),
                **{"attention_scale": 0.25, "activation": "silu", "gated": True},
            },
        ),
    ],
)
def test_the_settings_of_format_1_open_under_today_s_names(
    tmp_path: Path, old: dict[str, object], today: dict[str, object]
):
    folder = tmp_path / "old"
    model = write(folder, **today)
    document = {"format_version": 1, "model": SIZES | old}
    (folder / "config.json").write_text(json.dumps(document))
    assert load_checkpoint(folder).model.config == model.config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda model: model.update(n_experts=8), "unknown model setting: n_experts"),
        (lambda model: model.pop("n_head"), "missing model setting: n_head"),
        (
            lambda model: model.update(n_head=3, n_kv_head=3, head_dim=None),
            r"n_embd \(16\) is not a multiple of n_head \(3\)",
        ),
        (lambda model: model.update(n_layer="1"), "n_layer is '1'"),
    ],
)
def test_a_wrong_model_setting_is_refused_with_the_file(folder: Path, change: Callable, named: str):
    change_config(folder, lambda document: change(document["model"]))
    with pytest.raises(CheckpointError, match=rf"config\.json: {named}"):
        load_checkpoint(folder)


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("left", [0, 4, 8, 100, -2000, -1])
def test_truncated_weights_are_refused(folder: Path, left: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(folder)


def test_weights_with_bytes_behind_them_are_refused(folder: Path):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(folder)


def test_a_missing_tensor_is_refused_by_name(folder: Path):
    change_weights(folder, lambda tensors: tensors.pop("blocks.0.norm_2.bias"))
    with pytest.raises(CheckpointError, match=r"lacks blocks\.0\.norm_2\.bias$"):
        load_checkpoint(folder)


def test_a_missing_embedding_of_a_tied_model_is_refused_by_name(tmp_path: Path):
    write(tmp_path / "c", tie_embeddings=True)
    change_weights(tmp_path / "c", lambda tensors: tensors.pop("token_embedding.weight"))
    with pytest.raises(CheckpointError, match=r"token_embedding\.weight"):
        load_checkpoint(tmp_path / "c")


@torch.no_grad()
def test_a_stored_head_of_a_tied_model_must_be_the_embedding(tmp_path: Path):
    write(tmp_path / "c", tie_embeddings=True)
    copy = load_file(tmp_path / "c" / "model.safetensors")["token_embedding.weight"].clone()
    change_weights(tmp_path / "c", lambda tensors: tensors.update({"head.weight": copy}))
    load_checkpoint(tmp_path / "c")
    copy[3, 2] += 1
    change_weights(tmp_path / "c", lambda tensors: tensors.update({"head.weight": copy}))
    with pytest.raises(CheckpointError, match=r"head\.weight differs from token_embedding\.weight"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    "value", [torch.tensor(float("nan")), torch.tensor(float("-inf")), torch.tensor(1e300).double()]
)
def test_a_weight_that_is_no_finite_float32_is_refused_by_name(folder: Path, value: Tensor):
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["head.weight"] = tensors["head.weight"].to(value.dtype).clone()
        tensors["head.weight"][-1, 0] = value

    change_weights(folder, spoil)
    with pytest.raises(CheckpointError, match=r"head\.weight has values that are not finite"):
        load_checkpoint(folder).model  # noqa: B018 - the weights are read when they are asked for


def test_a_surplus_tensor_is_refused_by_name(folder: Path):
    change_weights(folder, lambda tensors: tensors.update({"head.bias": torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=r"does not know: head\.bias$"):
        load_checkpoint(folder)


def test_a_misshapen_tensor_is_refused_by_name(folder: Path):
    change_weights(folder, lambda tensors: tensors.update({"head.weight": torch.zeros(16, 7)}))
    with pytest.raises(
        CheckpointError, match=r"head\.weight has shape \[16, 7\], the model needs \[7, 16\]"
    ):
        load_checkpoint(folder)


def test_a_tokenizer_that_is_not_text_is_refused(folder: Path):
    (folder / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not UTF-8"):
        load_checkpoint(folder)
