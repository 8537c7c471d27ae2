"""A graph may name any file for its weights; the engine reads no file outside of the bundle."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import edgegpt
from edgegpt.errors import EngineError

GRAPH, WEIGHTS = "decoder.ort.onnx", "weights.safetensors"


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_weights_outside_of_the_bundle_are_refused(
    small_bundle: Path, altered_bundle: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    secret = Path(shutil.copyfile(small_bundle / WEIGHTS, tmp_path / "secret"))
    model = onnx.load(small_bundle / GRAPH, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret" if kind == "relative" else str(secret)
    bundle = altered_bundle({GRAPH: model.SerializeToString()})
    with pytest.raises(EngineError, match=r"cannot load decoder\.ort\.onnx"):
        edgegpt.load(bundle, "cpu")
