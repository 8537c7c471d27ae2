"""Faults in a float16 bundle that are smaller than what float16's own rounding is allowed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from edit_graph import edit_graph
from reseal import reseal

from edgegpt.export import export_bundle
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A float16 bundle. Read-only."""
    out = tmp_path_factory.mktemp("float16") / "bundle"
    assert export_bundle(small_checkpoint, out, precision="float16").passed
    return out


def one_in_a_thousand(graph: onnx.GraphProto) -> None:
    """Let the first layer multiply 1.001 times what it should."""
    place, product = next(each for each in enumerate(graph.node) if each[1].op_type == "MatMul")
    factor = onnx.numpy_helper.from_array(np.array(1.001, np.float16), "factor")
    graph.initializer.append(factor)
    scaled = onnx.helper.make_node("Mul", [product.input[0], "factor"], ["scaled"])
    product.input[0] = "scaled"
    graph.node.insert(place, scaled)


@pytest.mark.parametrize("lowering", ["ort", "standard", "legacy"])
def test_a_fault_of_one_in_a_thousand_is_caught_in_every_graph(
    sound: Path, tmp_path: Path, lowering: str
) -> None:
    bundle = Path(shutil.copytree(sound, tmp_path / "bundle"))
    edit_graph(bundle, f"decoder.{lowering}", one_in_a_thousand)
    reseal(bundle)
    failed = {check.name for check in verify(Bundle.open(bundle)).checks if not check.passed}
    assert ("prefill" if lowering == "ort" else f"{lowering} prefill") in failed
    assert f"float16 {lowering} prefill" not in failed  # as a GPU runs it


def test_results_of_weights_before_they_were_rounded_have_the_wide_limit(
    sound: Path, tmp_path: Path
) -> None:
    """Earlier exports made these."""
    bundle = Path(shutil.copytree(sound, tmp_path / "bundle"))
    golden = Golden.load(bundle / GOLDEN_NAME)
    assert golden.rounded
    replace(golden, rounded=False).save(bundle / GOLDEN_NAME)
    reseal(bundle)
    for path, limit in ((sound, "half weights"), (bundle, "float16")):
        (check,) = [one for one in verify(Bundle.open(path)).checks if one.name == "prefill"]
        assert check.tolerance == TOLERANCES[limit]
