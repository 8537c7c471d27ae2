"""Damage a bundle, and compare its graphs with PyTorch, place by place."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from edgegpt.export.bisect import Place, bisect
from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import FileEntry, Graph

__all__ = ["change_graph", "change_weight", "graph_of", "negated", "places_of"]

DTYPES = {"F32": np.float32, "F16": np.float16}


def graph_of(folder: Path, name: str) -> Graph:
    (graph,) = [graph for graph in Bundle.open(folder).manifest.graphs if graph.name == name]
    return graph


def places_of(folder: Path, model: GPT | Seq2Seq, name: str) -> list[Place]:
    return bisect(Bundle.open(folder), model, graph_of(folder, name))


def change_graph(folder: Path, name: str, change: Callable[[onnx.GraphProto], None]) -> None:
    """Edit the graph, and its size in the manifest, because opening a bundle checks sizes."""
    old, file = Bundle.open(folder).manifest, f"{name}.onnx"
    model = onnx.load(folder / file, load_external_data=False)
    change(model.graph)
    raw = model.SerializeToString()
    (folder / file).write_bytes(raw)
    entry = FileEntry(len(raw), hashlib.sha256(raw).hexdigest())
    (folder / "edgegpt.json").write_text(replace(old, files=old.files | {file: entry}).to_json())


def change_weight(folder: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Edit a weight in place."""
    entry = Bundle.open(folder).manifest.weights[name]
    raw, dtype = bytearray((folder / "weights.safetensors").read_bytes()), DTYPES[entry.dtype]
    count = entry.size // dtype().itemsize
    change(np.frombuffer(raw, dtype, count, entry.offset).reshape(entry.shape))
    (folder / "weights.safetensors").write_bytes(raw)


def negated(array: np.ndarray) -> None:
    np.negative(array, out=array)
