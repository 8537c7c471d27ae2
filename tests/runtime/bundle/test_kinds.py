"""What is named in the place of a bundle is recognised, and the message tells what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import edgegpt
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.kinds import FOLDERS
from edgegpt.runtime.bundle.pack import pack
from edgegpt.runtime.errors import BundleError


def written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def folder_with(name: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / name).write_bytes(b"x")

    return make


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a.gguf": (written(b"GGUF\x03"), "is a GGUF file, not a bundle: `edgegpt export {} --out"),
    "a.pt": (lambda path: torch.save({}, path), "is a PyTorch file, not a bundle: `edgegpt export"),
    "a.safetensors": (
        lambda path: save_file({"w": torch.ones(1)}, path),
        "is a safetensors file, not a bundle; `edgegpt export` takes its folder",
    ),
    "a.onnx": (written(b"\x08\x0a"), "is an ONNX graph, not a bundle; `edgegpt export` makes one"),
    "a.h5": (written(b"\x89HDF\r\n"), "is an HDF5 file, as Keras writes it, not a bundle"),
    "a.txt": (written(b"To be"), "is not a bundle: it has no edgegpt.json. A checkpoint becomes"),
    "a.empty": (written(b""), "is not a bundle: it has no edgegpt.json"),
    **{
        f"folder of {name}": (folder_with(name), f"is {kind}, not a bundle")
        for name, kind in FOLDERS.items()
    },
}


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_no_bundle_is_told_by_its_kind(tmp_path: Path, name: str) -> None:
    make, told = CASES[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(BundleError) as caught:
        edgegpt.load(path)
    assert f"{path} {told.format(path)}" in str(caught.value)


def test_a_command_to_copy_has_a_name_with_spaces_quoted(tmp_path: Path) -> None:
    path = tmp_path / "my model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(BundleError, match=f"`edgegpt export '{path}' --out"):
        edgegpt.load(path)


def test_a_packed_bundle_is_to_be_unpacked(small_bundle: Path, tmp_path: Path) -> None:
    packed = tmp_path / "any name"
    pack(Bundle.open(small_bundle), packed)
    with pytest.raises(BundleError, match="is a packed bundle: name the folder that `edgegpt unpa"):
        edgegpt.load(packed)


def test_of_a_file_within_a_bundle_the_folder_is_to_be_named(small_bundle: Path) -> None:
    for name in ("edgegpt.json", "decoder.ort.onnx"):
        with pytest.raises(BundleError, match=f"is a file of the bundle {small_bundle}: name that"):
            edgegpt.load(small_bundle / name)
