"""Faults of quantised bundles: PyTorch with the damaged integers measures how far they move."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edit_graph import edit_graph
from numpy.typing import NDArray
from reseal import reseal
from small_models import random_model, small_config, write_checkpoint

from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.quantization import BlockQuantized
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify

WEIGHT = "blocks.1.feed_forward.up.weight"
EXACT = TOLERANCES["float32"]


@pytest.fixture(scope="module", params=["int8", "int4"])
def specimen(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[GPT, Path]:
    """The float32 model, and its quantised bundle."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_model(small_config())
    write_checkpoint(folder / "ckpt", model)
    settings = ExportSettings(method="rtn", max_kl=1e9)
    export_bundle(folder / "ckpt", folder / "bundle", precision=request.param, settings=settings)
    return model, folder / "bundle"


def array_of(bundle: Path, raw: bytearray, name: str) -> NDArray:
    entry = Bundle.open(bundle).manifest.weights[name]
    kind = {"U8": np.uint8, "F32": np.float32}[entry.dtype]
    flat = np.frombuffer(raw, np.uint8, entry.size, entry.offset).view(kind)
    return flat.reshape(entry.shape)


def dequantised(bundle: Path, model: GPT) -> GPT:
    """Return the model with the weights of the weight file, dequantised."""
    manifest = Bundle.open(bundle).manifest
    raw = bytearray((bundle / manifest.weights_file).read_bytes())
    bits, block = manifest.quantization.bits, manifest.quantization.block
    model = random_model(model.config)
    for name, parameter in model.named_parameters():
        found = array_of(bundle, raw, name)
        if f"{name}.scales" in manifest.weights:
            scales = array_of(bundle, raw, f"{name}.scales")
            weight = BlockQuantized(bits, block, tuple(parameter.shape), found, scales)
            found = weight.dequantized()
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(found.copy()))
    return model


def movement_of(bundle: Path, model: GPT) -> float:
    golden = Golden.load(bundle / "golden.safetensors")
    with torch.no_grad():
        logits = model(torch.from_numpy(golden.chunked.ids)[None])[0].numpy()
    return float(abs(logits - golden.chunked.logits).max() / abs(golden.chunked.logits).max())


def test_the_golden_vectors_are_of_the_dequantised_weights(specimen) -> None:
    model, bundle = specimen
    assert movement_of(bundle, dequantised(bundle, model)) < EXACT
    assert movement_of(bundle, model) > 10 * EXACT


def one_scale_doubled(values: NDArray, scales: NDArray) -> None:
    scales[3, 0] *= 2


def one_percent_off(values: NDArray, scales: NDArray) -> None:
    scales *= 1.01


def halves_of_bytes_swapped(values: NDArray, scales: NDArray) -> None:
    values[:] = (values << 4) | (values >> 4)


def one_step_up(values: NDArray, scales: NDArray) -> None:
    values[5] ^= 1


@pytest.mark.parametrize(
    "damage", [one_scale_doubled, one_percent_off, halves_of_bytes_swapped, one_step_up]
)
def test_damaged_integers_and_scales_fail_the_exact_checks(
    specimen, tmp_path: Path, damage: Callable[[NDArray, NDArray], None]
) -> None:
    model, clean = specimen
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    raw = bytearray((bundle / "weights.safetensors").read_bytes())
    damage(array_of(bundle, raw, WEIGHT), array_of(bundle, raw, f"{WEIGHT}.scales"))
    (bundle / "weights.safetensors").write_bytes(raw)
    reseal(bundle)
    assert movement_of(bundle, dequantised(bundle, model)) > 3 * EXACT
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert "exact chunked" in failed


def test_a_zero_point_where_there_is_none_fails_the_exact_checks(specimen, tmp_path: Path) -> None:
    model, clean = specimen
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    manifest = Bundle.open(bundle).manifest
    scales = array_of(
        bundle, bytearray((bundle / manifest.weights_file).read_bytes()), f"{WEIGHT}.scales"
    )
    assert scales.shape[1] == 1  # one block a row: a byte holds its zero point
    one_more = np.full(scales.shape, 2 ** (manifest.quantization.bits - 1) + 1, dtype=np.uint8)

    def add(graph: onnx.GraphProto) -> None:
        graph.initializer.append(onnx.numpy_helper.from_array(one_more, "zero_points"))
        (node,) = [node for node in graph.node if WEIGHT in node.input]
        node.input[:] = [*node.input[:3], "zero_points", *node.input[4:]]

    for part in ("decoder", "exact"):
        edit_graph(bundle, f"{part}.ort", add)
    reseal(bundle)
    damaged = dequantised(bundle, model)
    with torch.no_grad():
        damaged.get_parameter(WEIGHT).sub_(torch.from_numpy(scales))
    assert movement_of(bundle, damaged) > 3 * EXACT
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert "exact chunked" in failed


def test_a_prefill_graph_with_a_quarter_of_the_step_fails_as_it_runs(
    specimen, tmp_path: Path
) -> None:
    """Activations are cut off at a quarter of their row's largest magnitude."""
    model, clean = specimen
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))

    def shrink(graph: onnx.GraphProto) -> None:
        (step,) = [constant for constant in graph.initializer if constant.name == "int8.step"]
        value = onnx.numpy_helper.to_array(step) / np.float32(4)
        step.CopyFrom(onnx.numpy_helper.from_array(value, step.name))

    def cut_off(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        limit = inputs[0].abs().amax(-1, keepdim=True) / 4
        return inputs[0].clamp(-limit, limit)

    edit_graph(bundle, "prefill.ort", shrink)
    reseal(bundle)
    damaged = dequantised(bundle, model)
    for part in damaged.blocks.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_pre_hook(cut_off)
    precision = Bundle.open(bundle).manifest.precision
    assert movement_of(bundle, damaged) > 3 * TOLERANCES[precision]
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert "prefill" in failed
    assert not any(name.startswith("exact") for name in failed)


def test_a_prefill_graph_that_mixes_up_layers_fails_as_it_runs(specimen, tmp_path: Path) -> None:
    """The exact checks do not run this graph; the other checks and the quality must fail."""
    _, clean = specimen
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    proto = onnx.load(bundle / "prefill.ort.onnx", load_external_data=False)
    products = [node for node in proto.graph.node if node.op_type == "MatMulIntegerToFloat"]
    first, second = products[0], products[4]  # qkv of both blocks
    for place in (1, 3):  # weight and scale
        first.input[place], second.input[place] = second.input[place], first.input[place]
    # Nodes of the second block now come after the first use of their results.
    onnx.save(sorted_by_need(proto), bundle / "prefill.ort.onnx")
    reseal(bundle)
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert "prefill" in failed
    assert not any(name.startswith("exact") for name in failed)


def sorted_by_need(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its nodes in topological order."""
    import onnx_ir as ir

    model = ir.from_proto(proto)
    model.graph.sort()
    return ir.to_proto(model)
