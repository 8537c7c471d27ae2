"""Reads a folder in the layout of Hugging Face: config.json, weights, tokenizer."""

from pathlib import Path

from edgegpt.runtime.bundle.kinds import kind_of
from edgegpt.runtime.bundle.manifest import MANIFEST_NAME

from ..errors import CheckpointError
from ..user_files import is_file, read_json
from .names import listed
from .pickles import PickledTensors, read_pickle, state_dict
from .source import Source
from .tensors import SafeTensors, Tensors, TensorsTwice, weight_map, weight_paths

__all__ = ["ADAPTER_SETTINGS", "open_folder"]

ADAPTER_SETTINGS = "adapter_config.json"
SINGLE_FILES = (".gguf", ".pt", ".pth", ".ckpt")  # endings of files that are imported by themselves


def open_folder(folder: Path, name: str | None = None) -> Source:
    """Return the checkpoint in `folder`; values of weights are read later, one by one.

    Raises:
        CheckpointError: if config.json or the weights are missing, damaged or cut off.
    """
    path = folder / "config.json"
    if not is_file(path):
        raise CheckpointError(_instead(folder))
    settings = read_json(path)
    return Source(name or folder.resolve().name, settings, str(path), _tensors(folder), folder)


def _instead(folder: Path) -> str:
    """Return what a folder without config.json is, and what to do with it."""
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if name.endswith(SINGLE_FILES)]
    if MANIFEST_NAME in names:
        return f"{folder} is a bundle already; name what it was made of"
    if ADAPTER_SETTINGS in names:
        return f"{folder} is an adapter; name the model that it is for, with --adapter {folder}"
    if files:
        return f"{folder} has no config.json; to import a file of it, name it: {folder / files[0]}"
    kind = kind_of(folder)
    if kind is not None:
        return f"{folder} is {kind}; a folder is imported that has a config.json of Hugging Face"
    return f"{folder / 'config.json'} is missing"


def _tensors(folder: Path) -> Tensors:
    """Return the weights: safetensors if there are any, else pickled.

    Where a file with all weights has an index beside it, both have to name the same tensors; the
    files of the index may be missing.
    """
    paths = weight_paths(folder)
    tensors = _opened(paths)
    index = folder / f"{paths[0].name}.index.json"
    if not is_file(index):
        return tensors
    files = weight_map(index)
    if different := sorted(files.keys() ^ tensors.shapes.keys()):
        raise CheckpointError(
            f"{paths[0]} and {index.name} beside it are of different weights: only one of them "
            f"has {listed(different)}; remove what is not meant"
        )
    shards = [folder / name for name in sorted(set(files.values()))]
    if shards == paths or not all(map(is_file, shards)):
        return tensors
    return TensorsTwice(tensors, _opened(shards))


def _opened(paths: list[Path]) -> Tensors:
    if paths[0].suffix == ".safetensors":
        return SafeTensors(paths)
    return PickledTensors({path: state_dict(read_pickle(path), path) for path in paths})
