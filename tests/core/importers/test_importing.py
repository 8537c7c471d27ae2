"""`--check` says what import says, before a weight is read; and a wrong source is named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_checkpoints import SIZES, save_tiny
from tiny_gguf import write_gguf
from tokenizers import Tokenizer, models
from transformers import LlamaConfig

from edgegpt.cli import main
from edgegpt.errors import CheckpointError
from edgegpt.importers import run
from edgegpt.importers.importing import Named, survey, write_checkpoint
from edgegpt.importers.open import open_source

TOKENIZER = Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "source"
    save_tiny(LlamaConfig(**SIZES), folder)
    (folder / "tokenizer.json").write_text(TOKENIZER)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer."""
    return Path(shutil.copytree(made, tmp_path / "source"))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to read a weight."""

    def refuse(name: str, tensors: object) -> None:
        raise CheckpointError("a weight was read")

    monkeypatch.setattr(run, "_read", refuse)


@pytest.fixture
def said(
    no_weights: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[Path], list[list[str]]]:
    """Run import and `--check`, neither of which may read a weight; return what both told."""

    def both(source: Path) -> list[list[str]]:
        told = []
        for options in (["--check", "--json"], ["--out", str(tmp_path / "out")]):
            with pytest.raises(SystemExit):
                main(["import", str(source), *options])
            output = capsys.readouterr()
            notes = json.loads(output.out)["notes"] if output.out else []
            lines = [line for line in output.err.splitlines() if line[:5] in ("note:", "error")]
            told.append(notes + [line.removeprefix("note: ") for line in lines])
        return told

    return both


def written(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (written("tokenizer.json", "{}"), "tokenizer.json is no tokenizer that can be read"),
        (written("tokenizer_config.json", "["), "tokenizer_config.json is not readable JSON"),
        (written("tokenizer_config.json", '{"chat_template": 3}'), "the chat template in"),
        (written("chat_template.jinja", "a" * 65_537), "chat_template.jinja has 65,537 bytes"),
        (
            written("generation_config.json", '{"do_sample": true, "top_p": 2}'),
            "generation_config.json: top_p is 2",
        ),
        (written("generation_config.json", '{"eos_token_id": "x"}'), "source: eos_token_id is 'x'"),
    ],
)
def test_a_check_refuses_the_texts_that_import_refuses(
    folder: Path, said: Callable, damage: Callable, named: str
) -> None:
    damage(folder)
    check, imported = said(folder)
    assert check == imported
    assert len(check) == 1
    assert named in check[0]
    assert str(folder) in check[0]


def test_a_check_gives_the_notes_that_import_gives_before_it_reads(
    folder: Path, said: Callable
) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "generation_config.json").write_text('{"guidance_scale": 4, "stop_strings": ["a"]}')
    (folder / "LICENSE").write_bytes(b"\xff")
    (folder / "chat_template.jinja").write_text("{% if")
    check, imported = said(folder)
    assert imported == [*check, "error: a weight was read"]
    parts = ("has no tokenizer", "guidance_scale, stop_strings", "no usable chat", "LICENSE is not")
    for note, part in zip(check, parts, strict=True):
        assert part in note


@pytest.mark.usefixtures("no_weights")
def test_an_export_for_more_tokens_than_the_model_sees_is_refused_before_weights_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["export", str(folder), "--out", str(tmp_path / "out"), "--context", "129"])
    assert "error: --context is 129; the model can see 1 to 128 tokens" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def gguf_file(path: Path, **fields: Any) -> Path:
    """Write a GGUF file with a tokenizer of the kind of GPT-2."""
    own = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]} | fields

    def extra(writer: gguf.GGUFWriter) -> None:
        for key, value in own.items():
            add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
            add[type(value)](f"tokenizer.ggml.{key}", value)

    model = save_tiny(LlamaConfig(**SIZES), path.parent / "model")
    write_gguf(model, path, "llama", extra=extra)
    return path


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"pre": "default"}, "cuts texts in the way 'default'"),
        ({"model": "zzz"}, "has a tokenizer of the kind 'zzz'"),
        ({"merges": ["a c"]}, "merges do not fit"),
    ],
)
def test_a_check_refuses_the_tokenizer_of_a_gguf_file_as_import_does(
    tmp_path: Path, said: Callable, fields: dict[str, Any], named: str
) -> None:
    path = gguf_file(tmp_path / "model.gguf", **fields)
    check, imported = said(path)
    assert check == imported
    assert named in check[0]
    assert str(path) in check[0]


def test_ids_of_a_gguf_file_that_are_no_tokens_are_noted(tmp_path: Path, said: Callable) -> None:
    ids = {"bos_token_id": 2**32 - 1, "eos_token_id": 3, "padding_token_id": 2}
    path = gguf_file(tmp_path / "model.gguf", **ids)
    check, imported = said(path)
    assert imported == [*check, "error: a weight was read"]
    assert check == ["tokenizer.ggml.eos_token_id is 3, which is no token, and is left out"]


FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja", "chat_template.json", "vocab.json"),
    *("merges.txt", "added_tokens.json", "tokenizer.model", "model.safetensors"),
    *("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
INSTEAD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link": lambda path: path.symlink_to("gone"),
}


@pytest.mark.parametrize("kind", list(INSTEAD))
@pytest.mark.parametrize("name", FILES)
def test_what_stands_where_a_file_belongs_is_refused_by_name(
    folder: Path, name: str, kind: str
) -> None:
    if name not in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / "tokenizer.json").unlink()  # else it alone is looked for
    if name == "merges.txt":
        (folder / "vocab.json").write_text("{}")
    if name.startswith("pytorch"):
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    INSTEAD[kind](folder / name)
    with pytest.raises(CheckpointError) as caught:
        survey(Named(str(folder)))
    assert f"{folder / name} is {kind}" in str(caught.value)


def test_parts_of_weights_that_are_pipes_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "part.safetensors")
    index = {"weight_map": {"a": "part.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"part\.safetensors is a pipe"):
        survey(Named(str(folder)))
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("a", np.ones(2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "m.gguf").rename(tmp_path / "m-00001-of-00002.gguf")
    os.mkfifo(tmp_path / "m-00002-of-00002.gguf")
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002\.gguf is a pipe"):
        open_source(tmp_path / "m-00001-of-00002.gguf")


def test_json_with_a_byte_order_mark_is_read_everywhere(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    for path in folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (tmp_path / "out").mkdir()
    write_checkpoint(survey(Named(str(folder))), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == TOKENIZER


FOLDERS = {
    "edgegpt.json": "is a bundle already",
    "adapter_config.json": "is an adapter; name the model that it is for, with --adapter",
    "a.Q4_0.gguf": "has no config.json; to import a file of it, name it: ",
    "ckpt.pt": "has no config.json; to import a file of it, name it: ",
    "other.txt": "config.json is missing",
}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_a_folder_that_is_something_else_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        survey(Named(str(tmp_path)))
    assert FOLDERS[name] in str(caught.value)


def test_a_link_to_nothing_is_no_place_to_write_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").symlink_to("gone")
    with pytest.raises(SystemExit) as stop:
        main(["import", str(folder), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert f"{tmp_path / 'out'} exists already" in capsys.readouterr().err
    assert os.readlink(tmp_path / "out") == "gone"
