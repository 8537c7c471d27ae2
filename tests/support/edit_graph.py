"""Change a graph of a bundle."""

from collections.abc import Callable
from pathlib import Path

import onnx

__all__ = ["edit_graph"]


def edit_graph(bundle: Path, name: str, change: Callable[[onnx.GraphProto], None]) -> None:
    """Edit the file of a graph, of which the bundle's hashes then know nothing yet."""
    path = bundle / f"{name}.onnx"
    proto = onnx.load(path, load_external_data=False)
    before = proto.SerializeToString()
    change(proto.graph)
    assert proto.SerializeToString() != before
    onnx.save(proto, path)
