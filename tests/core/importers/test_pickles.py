"""Files of torch.save: what cannot be a weight, and what is damaged, is named in one sentence."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgegpt.errors import CheckpointError
from edgegpt.importers.pickles import PickledTensors, read_pickle, state_dict


def saved(path: Path, **tensors: Tensor) -> PickledTensors:
    torch.save(tensors, path)
    return PickledTensors({path: state_dict(read_pickle(path), path)})


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8)


ODD = {
    "is sparse (torch.sparse_coo)": lambda: torch.eye(4).to_sparse(),
    "is sparse (torch.sparse_csr)": lambda: torch.eye(4).to_sparse_csr(),
    "is quantised (torch.quint8)": quantised,
    "has a shape but no values": lambda: torch.ones(3, device="meta"),
    "is of type torch.complex64": lambda: torch.ones(3, dtype=torch.complex64),
    "is of type torch.float64": lambda: torch.ones(3, dtype=torch.float64),
    "is of type torch.bool": lambda: torch.ones(3, dtype=torch.bool),
    "has the shape [1000000000, 1000], but fewer values": lambda: torch.ones(1).expand(10**9, 1000),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reason", list(ODD))
def test_a_tensor_that_is_no_weight_is_refused_by_name(tmp_path: Path, reason: str) -> None:
    tensors = saved(tmp_path / "a.pt", w=ODD[reason](), other=torch.ones(2))
    assert tensors.dtype("other") == torch.float32
    with pytest.raises(CheckpointError) as caught:
        tensors.dtype("w")
    assert f"{tmp_path / 'a.pt'}: w {reason}" in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_refused_at_once(tmp_path: Path, layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    with pytest.raises(CheckpointError, match="w is a nested tensor, which is no weight"):
        saved(tmp_path / "a.pt", w=nested)


def test_an_expanded_tensor_that_is_saved_as_a_whole_is_a_weight(tmp_path: Path) -> None:
    rows = torch.arange(6.0).view(2, 3)
    tensors = saved(tmp_path / "a.pt", part=rows[:1], turned=rows.T)
    assert tensors.dtype("part") == tensors.dtype("turned") == torch.float32
    assert torch.equal(tensors.read("turned"), rows.T)


def flip(path: Path, entry: str) -> None:
    """Change one bit in the middle of a part of the archive."""
    with zipfile.ZipFile(path) as archive:
        (info,) = [one for one in archive.infolist() if one.filename.endswith(entry)]
        with archive.open(info):
            begin = archive.fp.tell()  # of the part's content
    data = bytearray(path.read_bytes())
    data[begin + info.file_size // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_seen_when_a_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    flip(path, "data/0")
    tensors = PickledTensors({path: read_pickle(path)})
    assert tensors.shapes == {"w": (1000,)}  # a look reads no values
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged: Bad CRC-32 for file 'a/data/0'"):
        tensors.read("w")


def test_files_without_sums_are_read(tmp_path: Path) -> None:
    value = torch.arange(5.0)
    assert torch.equal(saved(tmp_path / "sums.pt", w=value).read("w"), value)
    torch.save({"w": value}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": value}, tmp_path / "none.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("old.pt", "none.pt"):
        path = tmp_path / name
        assert torch.equal(PickledTensors({path: read_pickle(path)}).read("w"), value)


def test_each_tensor_knows_its_file_and_two_do_not_hold_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "1.bin", tmp_path / "2.bin"
    tensors = PickledTensors({first: {"a": torch.ones(2)}, second: {"b": torch.ones(2).bool()}})
    assert (tensors.place("a"), tensors.place("b")) == (str(first), str(second))
    with pytest.raises(CheckpointError, match=r"2\.bin: b is of type torch.bool"):
        tensors.dtype("b")
    with pytest.raises(CheckpointError, match=r"2\.bin repeats a"):
        PickledTensors({first: {"a": torch.ones(2)}, second: {"a": torch.ones(2)}})


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_told_in_a_short_sentence(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(5000)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="is not a readable PyTorch file: it is cut off"):
        read_pickle(path)


def test_what_the_library_says_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("PyTorch file: file in archive is not in a subdirectory: a")
