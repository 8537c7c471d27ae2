"""The weights of the graphs: none is read before it is written, and each is stored once."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgegpt.errors import ExportError
from edgegpt.export.graph import build_graph
from edgegpt.export.half_precision import in_half_precision
from edgegpt.export.layered import LayeredModel
from edgegpt.export.lazy_weights import LazyWeight, transposed
from edgegpt.export.lowerings import LEGACY, LOWERINGS, STANDARD
from edgegpt.export.tracing import trace
from edgegpt.export.weights import move_weights
from edgegpt.model import GPT, GPTConfig
from edgegpt.model_weights import skeleton
from edgegpt.runtime.bundle.onnx_file import external_tensors
from tests.support.small_models import random_model, small_config

LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "n_embd": 64,
    "tie_embeddings": True,
    "head_bias": False,
}


class Recorded(Mapping[str, Tensor]):
    """Weights of a model; `asked` lists the names that were read."""

    def __init__(self, model: GPT) -> None:
        self.own = {name: weight.data for name, weight in model.named_parameters()}
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.own[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


def names_of(model: GPT) -> set[str]:
    return {name for name, _ in (*model.named_parameters(), *model.named_buffers())}


def files_of(graphs: list[ir.Model], names: set[str], folder: Path) -> dict[str, str]:
    """Write weights and graphs to a new folder; return the hash of each file."""
    folder.mkdir()
    move_weights(graphs, names, folder / "weights.safetensors")
    for index, graph in enumerate(graphs):
        ir.save(graph, folder / f"{index}.onnx")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("changes", [{}, LLAMA], ids=["gpt", "llama"])
def test_a_model_without_weights_gives_the_same_files(changes: dict, tmp_path: Path) -> None:
    model = random_model(small_config(**changes))
    weights, names = Recorded(model), names_of(model)
    traced = trace(skeleton(model.config), weights)
    bare = [build_graph(traced, lowering) for lowering in LOWERINGS]
    assert weights.asked == []
    whole = trace(model)
    expected = files_of(
        [build_graph(whole, lowering) for lowering in LOWERINGS], names, tmp_path / "whole"
    )
    assert files_of(bare, names, tmp_path / "bare") == expected
    assert sorted(weights.asked) == sorted(weights.own)


def test_half_precision_is_cast_while_it_is_written(tmp_path: Path) -> None:
    model = random_model(small_config(**LLAMA))
    narrow = in_half_precision(skeleton(model.config), "bfloat16", ["head"])
    graph = build_graph(trace(narrow, Recorded(model)), STANDARD)
    files_of([graph], names_of(model), tmp_path / "b")
    stored = load_file(tmp_path / "b" / "weights.safetensors")
    own = dict(model.named_parameters())
    up = own["blocks.0.feed_forward.up.weight"]
    assert torch.equal(stored["blocks.0.feed_forward.up.weight"], up.bfloat16().T)
    assert torch.equal(stored["norm_final.weight"], own["norm_final.weight"])  # kept
    assert stored["rotary_cos_0"].dtype == torch.bfloat16


def test_a_weight_in_two_layouts_under_one_name_is_refused(tmp_path: Path) -> None:
    """Shape and type alone do not tell a square weight from its transpose."""
    model = random_model(small_config())
    traced = trace(model)
    graphs = [build_graph(traced, STANDARD), build_graph(traced, LEGACY)]
    proj = graphs[1].graph.initializers["blocks.0.attention.proj.weight"]
    proj.const_value = transposed(proj.const_value, (1, 0))
    with pytest.raises(ExportError, match=r"different weights named blocks\.0\.attention\.proj"):
        move_weights(graphs, names_of(model), tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_transposed_tensor_is_read_when_it_is_wanted() -> None:
    array, reads = np.arange(6, dtype=np.float32).reshape(2, 3), []

    def read(dtype: ir.DataType) -> np.ndarray:
        reads.append(1)
        return array.astype(dtype.numpy())

    lazy = LazyWeight(read, ir.DataType.FLOAT, (2, 3), name="weight", key=())
    turned = transposed(lazy, (1, 0))
    assert (reads, turned.shape.numpy(), turned.name) == ([], (3, 2), "weight")
    np.testing.assert_array_equal(turned.numpy(), array.T)
    assert turned.key != lazy.key
    narrow = turned.as_type(ir.DataType.FLOAT16)
    assert (narrow.key, narrow.numpy().dtype) == (turned.key, np.float16)
    np.testing.assert_array_equal(narrow.numpy(), array.T)


@pytest.mark.long
@pytest.mark.parametrize("lowering", LOWERINGS, ids=lambda lowering: lowering.name)
@pytest.mark.parametrize("gigabytes", [2.2, 4.4])
def test_a_weight_file_over_2_and_over_4_gb_works(
    lowering: object, gigabytes: float, tmp_path: Path
) -> None:
    """The last layer's weights lie behind all others, and the head before them: both must count.

    All big matrices are made of one row, so that only a small part of the model is in memory.
    """
    width, layers = 2048, int(gigabytes * 1e9 / (4 * 8 * 2048 * 2048))
    config = GPTConfig.from_dict(
        {
            "vocab_size": 64,
            "block_size": 8,
            "n_layer": layers,
            "n_head": 16,
            "n_kv_head": 8,
            "n_embd": width,
            "n_ff": 5 * width // 2,
            "norm": "rmsnorm",
            "position": "rope",
            "proj_bias": False,
            "ff_bias": False,
        }
    )

    class Repeated(Recorded):
        def __init__(self) -> None:
            self.own = dict(skeleton(config).named_parameters())

        def __getitem__(self, name: str) -> Tensor:
            shape, seed = self.own[name].shape, sum(name.encode())
            row = torch.randn(shape[-1], generator=torch.manual_seed(seed)) * 0.02
            weight = row.expand(shape) * torch.linspace(-1, 1, shape[0])[:, None]
            return weight if len(shape) == 2 else torch.ones(shape)

    weights, model = Repeated(), skeleton(config)
    graph = build_graph(trace(model, weights), lowering)
    written = move_weights([graph], names_of(model), tmp_path / "weights.safetensors")
    assert max(entry.offset + entry.size for entry in written.entries.values()) > gigabytes * 9e8
    path = tmp_path / "decoder.onnx"
    ir.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
    assert len(external_tensors(path.read_bytes())) == len(written.entries)
    found = _logits(path, config)
    with torch.no_grad():
        wanted = _reference(config, weights)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def _logits(path: Path, config: GPTConfig) -> np.ndarray:
    """Run the graph on ids 1, 2, 3; return the logits [3, V]."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = {
        "ids": np.array([[1, 2, 3]]),
        "past_len": np.array([0]),
        "seqlens_k": np.array([2], dtype=np.int32),
        "total_sequence_length": np.array([3], dtype=np.int32),
        "position_ids": np.array([[0, 1, 2]]),
        "logit_positions": np.array([[0, 1, 2]]),
    }
    feeds = {}
    for port in session.get_inputs():
        cache = np.zeros((1, config.n_kv_head, 8, config.head_dim), dtype=np.float32)
        given = values.get(port.name, cache)
        feeds[port.name] = given.reshape((*given.shape, 1)) if len(port.shape) == 3 else given
    return session.run(["logits"], feeds)[0][0]


def _reference(config: GPTConfig, weights: Mapping[str, Tensor]) -> np.ndarray:
    layered = LayeredModel(config, weights)
    stream = layered.final_stream(torch.tensor([[1, 2, 3]]))
    return torch.cat(list(layered.logits(stream))).numpy()
