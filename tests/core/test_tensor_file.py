"""Writing a safetensors file tensor after tensor."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from edgegpt.tensor_file import layout_of, raw_bytes, write_tensors


def mixed_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.wide": torch.randn(3, 5, generator=generator),
        "a.bytes": torch.randint(256, (2, 3, 4), dtype=torch.uint8, generator=generator),
        "c.brain": torch.randn(7, generator=generator).bfloat16(),
        "a.half": torch.randn(2, 2, generator=generator).half(),
        "z.signed": torch.tensor([-1, 5], dtype=torch.int8),
        "größe": torch.tensor(1.5),
        "none": torch.empty(0, 4),
    }


def written(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    layouts = {name: layout_of(tensor) for name, tensor in tensors.items()}
    write_tensors(path, layouts, lambda name: raw_bytes(tensors[name]))
    return load_file(path)


def test_the_file_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = mixed_tensors()
    written(tmp_path / "file", tensors)
    assert (tmp_path / "file").read_bytes() == save(tensors)


def test_a_transposed_tensor_is_written_in_row_major_order(tmp_path: Path) -> None:
    turned = torch.arange(6.0).view(2, 3).T
    assert written(tmp_path / "file", {"turned": turned})["turned"].equal(turned)


def test_offsets_sizes_and_hashes_are_those_of_the_bytes_in_the_file(tmp_path: Path) -> None:
    tensors, path = mixed_tensors(), tmp_path / "file"
    layouts = {name: layout_of(tensor) for name, tensor in tensors.items()}
    result = write_tensors(path, layouts, lambda name: raw_bytes(tensors[name]))
    data = path.read_bytes()
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    for name, tensor in tensors.items():
        entry = result.entries[name]
        stored = data[entry.offset : entry.offset + entry.size]
        assert stored == raw_bytes(tensor).tobytes()
        assert entry.sha256 == hashlib.sha256(stored).hexdigest()
        assert entry.shape == list(tensor.shape)


def test_each_tensor_is_asked_for_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    tensors, asked = mixed_tensors(), []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return raw_bytes(tensors[name])

    layouts = {name: layout_of(tensor) for name, tensor in tensors.items()}
    result = write_tensors(tmp_path / "file", layouts, read)
    assert asked == sorted(tensors, key=lambda name: (result.entries[name].offset, name != "none"))


def test_a_tensor_that_cannot_be_read_leaves_the_earlier_file(tmp_path: Path) -> None:
    tensors, path = mixed_tensors(), tmp_path / "file"
    path.write_text("earlier")

    def read(name: str) -> np.ndarray:
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        write_tensors(path, {name: layout_of(tensor) for name, tensor in tensors.items()}, read)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "earlier"


def test_a_tensor_of_another_size_than_its_layout_is_refused(tmp_path: Path) -> None:
    layouts = {"weight": layout_of(torch.zeros(3))}
    with pytest.raises(ValueError, match="weight has 16 bytes; its layout says 12"):
        write_tensors(tmp_path / "file", layouts, lambda _: raw_bytes(torch.zeros(4)))
    assert not list(tmp_path.iterdir())
