"""Models on the Hugging Face Hub, asked of a stand-in on this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import progress_bar_states
from safetensors.torch import load, save
from stand_in_hub import COMMIT, Model, StandInHub, stand_in_hub
from tiny_checkpoints import SIZES, save_tiny
from tokenizers import Tokenizer, models
from transformers import LlamaConfig

from edgegpt.cli import main
from edgegpt.errors import CheckpointError, EdgeGPTWarning, InvalidInputError
from edgegpt.importers.hub.download import download as download_model
from edgegpt.importers.hub.headers import open_headers
from edgegpt.importers.hub.ids import HubId
from edgegpt.importers.importing import Named, opened
from edgegpt.importers.run import look
from edgegpt.runtime.progress import Progress, silent

NAME = "someone/tiny-1.5_b"
HUB_ID = HubId(NAME)
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model that was saved in two parts, and others that import does not read."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(LlamaConfig(**SIZES), folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    tensors = load(found.pop("model.safetensors"))
    parts = [dict(list(tensors.items())[start::2]) for start in (0, 1)]
    index = {name: file for file, part in zip(SHARDS, parts, strict=True) for name in part}
    found[INDEX] = json.dumps({"weight_map": index}).encode()
    found |= {file: save(part) for file, part in zip(SHARDS, parts, strict=True)}
    return found | {
        "README.md": b"---\nlicense: mit\n---\n",
        "LICENSE.txt": b"Do as you like.",
        "tokenizer.json": Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str().encode(),
        "modeling_own.py": b"raise SystemExit",
        "LICENSE.py": b"raise SystemExit",
        "LICENSES/other.txt": b"of a part",
        "pytorch_model.bin": b"pickled",
        "consolidated.safetensors": b"the same again",
        "onnx/model.onnx": b"onnx",
    }


@pytest.fixture
def hub(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandInHub]:
    """A stand-in with one model; the library uses it, and an empty cache."""
    with stand_in_hub() as running:
        running.models[NAME] = Model(dict(files))
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running


def download(hub_id: str, revision: str | None, progress: Progress = silent) -> Path:
    return download_model(HubId.of(hub_id), revision, progress=progress)


def refusal(hub_id: str = NAME, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        download(hub_id, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_only_what_import_reads_is_downloaded(hub: StandInHub, files: dict[str, bytes]) -> None:
    folder = download(NAME, None)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        *("config.json", "generation_config.json", "README.md", "LICENSE.txt", "tokenizer.json"),
        *(INDEX, *SHARDS),
    }
    assert all((folder / name).read_bytes() == files[name] for name in SHARDS)
    assert HUB_ID.with_commit(folder) == f"{NAME}@0123456"
    source = opened(Named(NAME))
    assert (source.folder, source.name) == (folder, f"{NAME}@0123456")
    assert look(source).config.n_layer == 3


def test_a_text_that_cannot_be_imported_is_told_before_the_weights_are_downloaded(
    hub: StandInHub,
) -> None:
    hub.models[NAME].files["tokenizer.json"] = b"{}"
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer that can be read"):
        opened(Named(NAME))
    assert INDEX in hub.sent
    assert not hub.sent.keys() & set(SHARDS)


def test_a_context_that_the_model_lacks_is_told_before_the_weights_are_downloaded(
    hub: StandInHub,
) -> None:
    with pytest.raises(InvalidInputError, match="the model can see 1 to 128 tokens"):
        opened(Named(NAME, context=129))
    assert not hub.sent.keys() & set(SHARDS)


def test_the_language_model_of_a_model_that_sees_is_taken_by_the_flag(
    hub: StandInHub, files: dict[str, bytes]
) -> None:
    config = json.loads(files["config.json"])
    outer = {"model_type": "llava", "text_config": config, "vision_config": {}}
    model = load(files[SHARDS[0]]) | load(files[SHARDS[1]])
    tensors = {f"language_model.{name}": value for name, value in model.items()}
    tensors["vision_tower.x"] = torch.ones(2)
    hub.models[NAME].files |= {
        "config.json": json.dumps(outer).encode(),
        "model.safetensors": save(tensors),
    }
    with pytest.raises(CheckpointError, match="`--text-only` imports its language model alone"):
        opened(Named(NAME))
    assert "model.safetensors" not in hub.sent
    for values in (False, True):
        source = opened(Named(NAME, text_only=True), values=values)
        assert look(source).config.n_layer == 3


def test_a_second_download_asks_for_no_file_again(hub: StandInHub) -> None:
    download(NAME, None)
    before = dict(hub.sent)
    assert download(NAME, "v1") == download(NAME, COMMIT) == download(NAME, None)
    assert hub.sent == before


def test_pickled_weights_are_downloaded_only_if_there_are_no_others(hub: StandInHub) -> None:
    kept = hub.models[NAME].files
    for name in (INDEX, *SHARDS):
        del kept[name]
    folder = download(NAME, None)
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickled"
    kept["model.safetensors"] = b"weights"
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert not (download(NAME, None) / "pytorch_model.bin").exists()


def test_one_file_of_weights_is_downloaded_without_its_parts(
    hub: StandInHub, files: dict[str, bytes]
) -> None:
    tensors = load(files[SHARDS[0]]) | load(files[SHARDS[1]])
    hub.models[NAME].files["model.safetensors"] = save(tensors)
    assert look(opened(Named(NAME))).config.n_layer == 3
    assert look(open_headers(HUB_ID, None)).config.n_layer == 3
    assert "model.safetensors" in hub.sent
    assert not hub.sent.keys() & {INDEX, *SHARDS}


def test_progress_counts_the_bytes_and_nothing_is_drawn(
    hub: StandInHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library then draws, even if another test forbids it, and where there is no terminal.
    monkeypatch.setitem(progress_bar_states, "_global", True)
    monkeypatch.setenv("TQDM_POSITION", "-1")
    told: list[tuple[str, int, int]] = []
    download(NAME, None, progress=lambda *arguments: told.append(arguments))
    weights = sum(len(hub.models[NAME].files[name]) for name in SHARDS)
    assert told[-1] == (f"downloading {NAME}", weights, weights)
    assert capfd.readouterr() == ("", "")


def test_one_gguf_file_of_a_repository_is_downloaded(hub: StandInHub) -> None:
    hub.models["org/quants"] = Model({"a.gguf": b"GGUF a", "more/b.gguf": b"GGUF b", "x": b""})
    path = download("org/quants/more/b.gguf", None)
    assert path.read_bytes() == b"GGUF b"
    assert HubId.of("org/quants/more/b.gguf").with_commit(path) == "org/quants/more/b.gguf@0123456"
    assert not any("a.gguf" in asked for asked in hub.asked)
    assert "org/quants on the Hub has no more/c.gguf" in refusal("org/quants/more/c.gguf")


def test_all_parts_of_a_split_gguf_file_are_downloaded(hub: StandInHub) -> None:
    parts = [f"q/m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    others = ["q/m-00001-of-00004.gguf", "q/n-00002-of-00003.gguf"]
    hub.models["org/quants"] = Model({name: name.encode() for name in (*parts, *others)})
    path = download(f"org/quants/{parts[0]}", None)
    assert path.read_bytes() == parts[0].encode()
    assert set(hub.sent) == set(parts)
    assert path.with_name("m-00003-of-00003.gguf").exists()


@pytest.mark.parametrize("more", [{}, {"config.json": b"{}"}], ids=["alone", "with settings"])
def test_a_repository_of_gguf_files_lists_them(hub: StandInHub, more: dict[str, bytes]) -> None:
    hub.models["org/quants"] = Model({"a.gguf": b"GGUF a", "more/b.gguf": b"GGUF b", **more})
    message = refusal("org/quants")
    assert "name one of them, as org/quants/a.gguf: a.gguf, more/b.gguf" in message
    assert hub.sent == {}


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ({"config.json": b"{}"}, "no weights"),
        ({"model.safetensors": b""}, "no config.json"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "is an adapter: downl"),
    ],
)
def test_a_repository_without_a_model_is_refused(
    hub: StandInHub, kept: dict[str, bytes], named: str
) -> None:
    hub.models[NAME].files = kept
    assert named in refusal()
    assert hub.sent == {}


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ((403, "GatedRepo"), "is gated: accept its terms at http"),
        ((401, "RepoNotFound"), "the Hub shows no such model"),
        ((500, ""), "the Hub answered 500"),
        ((503, ""), "the Hub answered 503"),
        ((403, ""), "the Hub refuses"),
        ((429, ""), "the Hub answered 429"),
    ],
)
def test_what_the_hub_refuses_is_told_in_one_sentence(
    hub: StandInHub, refused: tuple[int, str], named: str
) -> None:
    hub.models[NAME].refused = refused
    message = refusal()
    assert named in message
    assert NAME in message


def test_unknown_models_and_revisions_are_named(hub: StandInHub) -> None:
    assert "some/other is no local path, and the Hub shows no such model" in refusal("some/other")
    assert "has no revision 'v9' on the Hub" in refusal(revision="v9")
    assert "is no Hub id" in refusal("a/b/c")
    assert "cannot get a--b/c" in refusal("a--b/c")


def test_a_hub_that_cannot_be_reached_is_told(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert f"cannot get {NAME}, which is no local path, from http://127.0.0.1:9" in refusal()


def test_an_interrupted_download_leaves_no_half_file(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library waits before it tries again
    hub.models[NAME].cut = {SHARDS[0]: 1000}
    assert f"cannot get {NAME}" in refusal()
    cache = Path(constants.HF_HUB_CACHE)
    assert not list(cache.rglob(SHARDS[0]))
    assert not list(cache.rglob("*.incomplete"))
    hub.models[NAME].cut = {}
    assert (download(NAME, None) / SHARDS[0]).exists()


def test_a_disk_that_is_too_small_is_told_before_the_download(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 20_000))
    assert "0.00 GB left; make room, or set HF_HOME" in refusal()
    assert not set(SHARDS) & set(hub.sent)


def test_a_disk_that_gets_full_is_told(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    assert f"no space is left for {NAME}" in refusal()


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("../../secret.safetensors", "which is not a file of its folder"),
        ("gone.safetensors", f"{NAME} on the Hub has no gone.safetensors"),
    ],
)
def test_an_index_that_names_what_is_not_there_is_refused(
    hub: StandInHub, file: str, named: str
) -> None:
    hub.models[NAME].files[INDEX] = json.dumps({"weight_map": {"a": file}}).encode()
    assert named in refusal()


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("download", "headers", "problems"):
        monkeypatch.delitem(sys.modules, f"edgegpt.importers.hub.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "edgegpt-toolkit\[hub\]"'):
        opened(Named(NAME))


def test_the_command_looks_at_a_model_on_the_hub(
    hub: StandInHub, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["import", NAME, "--revision", "v1", "--check", "--json"])
    assert not stop.value.code
    check = json.loads(capsys.readouterr().out)
    assert (check["name"], check["license"]) == (f"{NAME}@0123456", "mit")
    assert not list(Path(constants.HF_HUB_CACHE).rglob(SHARDS[0]))


def lay_cache(files: dict[str, bytes], cache: Path, *, links: bool) -> Path:
    """Write a cache as huggingface_hub does where it can make links, or where it cannot."""
    folder = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for part in (snapshot, folder / "blobs", folder / "refs"):
        part.mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    for number, (name, data) in enumerate(files.items()):
        if "/" in name:
            continue
        blob = folder / "blobs" / str(number) if links else snapshot / name
        blob.write_bytes(data)
        if links:
            (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_a_filled_cache_is_used_offline(
    hub: StandInHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    snapshot = lay_cache(files, Path(constants.HF_HUB_CACHE), links=links)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(NAME, None) == download(NAME, COMMIT) == snapshot
    assert look(open_headers(HUB_ID, None)).config.n_layer == 3
    assert hub.asked == []
    assert "not in the cache, and HF_HUB_OFFLINE forbids" in refusal(revision="v1")
    assert "not in the cache, and HF_HUB_OFFLINE forbids" in refusal("some/other")


def test_a_cached_model_is_used_with_a_warning_if_the_hub_is_down(hub: StandInHub) -> None:
    folder = download(NAME, None)
    hub.models[NAME].refused = (503, "")
    with pytest.warns(EdgeGPTWarning, match="answered 503.*; going on with the copy in"):
        assert download(NAME, None) == folder


def test_a_cache_with_a_part_of_a_model_is_told(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_headers(HUB_ID, None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the cache holds a part of it only" in refusal()


def test_what_was_downloaded_is_there_offline_by_the_environments_word(
    hub: StandInHub, tmp_path: Path
) -> None:
    """The whole way, in processes of their own, because the library reads its settings once."""
    program = (
        "from edgegpt.importers.hub.download import download\n"
        "from edgegpt.importers.hub.ids import HubId\n"
        f"print(download(HubId({NAME!r}), None))\n"
    )
    outputs = []
    for more in ({"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}, {"HF_HUB_OFFLINE": "1"}):
        settings = os.environ | {"HF_HOME": str(tmp_path / "home")} | more
        run = subprocess.run(
            [sys.executable, "-c", program], env=settings, capture_output=True, text=True
        )
        assert (run.returncode, run.stderr) == (0, "")
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith(str(tmp_path / "home" / "hub"))


def test_a_look_reads_headers_and_no_weights(hub: StandInHub, files: dict[str, bytes]) -> None:
    source = open_headers(HUB_ID, "v1")
    expected = load(files[SHARDS[0]]) | load(files[SHARDS[1]])
    assert source.tensors.shapes == {name: tuple(t.shape) for name, t in expected.items()}
    assert {source.tensors.dtype(name) for name in expected} == {torch.float32}
    assert source.name == f"{NAME}@0123456"
    look(source)
    assert not (source.folder / SHARDS[0]).exists()
    assert "tokenizer.json" in hub.sent
    with pytest.raises(CheckpointError, match="only its header was read"):
        source.tensors.read("lm_head.weight")


def test_a_look_at_large_weights_is_a_look_at_their_beginning(hub: StandInHub) -> None:
    kept = hub.models[NAME].files
    for name in (INDEX, *SHARDS):
        del kept[name]
    header = b'{"w":{"dtype":"BF16","shape":[4000,500],"data_offsets":[0,4000000]}}'
    kept["model.safetensors"] = len(header).to_bytes(8, "little") + header + bytes(4_000_000)
    assert open_headers(HUB_ID, None).tensors.shapes == {"w": (4000, 500)}
    assert hub.sent["model.safetensors"] <= 200_000
    short = header.replace(b"4000,", b"4001,")
    kept["model.safetensors"] = len(short).to_bytes(8, "little") + short
    with pytest.raises(CheckpointError, match="the size of w is not that of its shape"):
        open_headers(HUB_ID, None)
    kept["model.safetensors"] = b"nothing"
    with pytest.raises(CheckpointError, match=f"cannot get {NAME}"):
        open_headers(HUB_ID, None)


def test_pickled_weights_cannot_be_looked_at_from_afar(hub: StandInHub) -> None:
    for name in (INDEX, *SHARDS):
        del hub.models[NAME].files[name]
    with pytest.raises(CheckpointError, match="pickled weights are known only when they are here"):
        open_headers(HUB_ID, None)


def test_a_gguf_file_is_not_looked_at_from_afar(hub: StandInHub) -> None:
    with pytest.raises(CheckpointError, match=r"org/quants/a.gguf: GGUF files are looked at here"):
        open_headers(HubId("org/quants", "a.gguf"), None)
    assert hub.asked == []
