"""Faults of quantised bundles: PyTorch with the damaged integers measures how far they move."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from reseal import reseal
from small_models import random_model, small_config, write_checkpoint

from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.quantization import BlockQuantized
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.proof.same_graph import graph_checks
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


def edit_graph(bundle: Path, part: str, change: Callable[[onnx.GraphProto], None]) -> None:
    path = bundle / f"{part}.ort.onnx"
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    onnx.save(proto, path)


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
        edit_graph(bundle, part, add)
    reseal(bundle)
    damaged = dequantised(bundle, model)
    with torch.no_grad():
        damaged.get_parameter(WEIGHT).sub_(torch.from_numpy(scales))
    assert movement_of(bundle, damaged) > 3 * EXACT
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert "exact chunked" in failed


def wider_attention(graph: onnx.GraphProto) -> None:
    node = [node for node in graph.node if node.op_type == "GroupQueryAttention"][1]
    next(each for each in node.attribute if each.name == "scale").f *= 1.05


def larger_epsilon(graph: onnx.GraphProto) -> None:
    norms = [each for node in graph.node for each in node.attribute if each.name == "epsilon"]
    for epsilon in norms:
        epsilon.f = 1e-3


def another_weight_of_that_shape(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == "blocks.1.norm_2.weight":
                node.input[place] = "blocks.1.norm_1.weight"


def another_place_in_the_file(graph: onnx.GraphProto) -> None:
    norms = {each.name: each for each in graph.initializer if each.name.endswith("norm_2.weight")}
    first, second = norms.values()
    del first.external_data[:]
    first.external_data.extend(second.external_data)


def one_node_more(graph: onnx.GraphProto) -> None:
    graph.node.append(onnx.helper.make_node("Abs", [graph.output[0].name], ["unread"]))


@pytest.mark.parametrize("part", ["decoder", "prefill"])
@pytest.mark.parametrize(
    "damage",
    [wider_attention, larger_epsilon, another_weight_of_that_shape, another_place_in_the_file],
)
def test_a_graph_that_is_not_the_one_proved_exactly_fails_however_little_it_moves(
    specimen, tmp_path: Path, part: str, damage: Callable[[onnx.GraphProto], None]
) -> None:
    """Rounding activations moves the logits further than these faults, which are no rounding."""
    bundle = Path(shutil.copytree(specimen[1], tmp_path / "bundle"))
    edit_graph(bundle, part, damage)
    reseal(bundle)
    receipt = verify(Bundle.open(bundle), check="size")
    failed = {check.name for check in receipt.checks if not check.passed}
    assert ("graph" if part == "decoder" else "prefill graph") in failed
    assert not any(name.startswith("exact") for name in failed)


def scaled_product(graph: onnx.GraphProto) -> None:
    (last,) = [node for node in graph.node if "blocks.1.feed_forward.down.bias" in node.input]
    product = last.input[0]
    last.input[0] = "scaled"
    factor = onnx.numpy_helper.from_array(np.float32(1.02), "factor")
    graph.initializer.append(factor)
    place = list(graph.node).index(last)
    graph.node.insert(place, onnx.helper.make_node("Mul", [product, "factor"], ["scaled"]))


def cut_off_activations(graph: onnx.GraphProto) -> None:
    (step,) = [constant for constant in graph.initializer if constant.name == "int8.step"]
    value = onnx.numpy_helper.to_array(step) * np.float32(0.9)
    step.CopyFrom(onnx.numpy_helper.from_array(value, step.name))


def product_without_bias(graph: onnx.GraphProto) -> None:
    (last,) = [node for node in graph.node if "blocks.1.feed_forward.down.bias" in node.input]
    del last.input[1]
    last.op_type = "Identity"


def columns_of_another_layer(graph: onnx.GraphProto) -> None:
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    for place in (1, 3):  # weight and scale of the first and of the second block
        products[4].input[place] = products[0].input[place]


def activations_of_another_layer(graph: onnx.GraphProto) -> None:
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    products[4].input[0] = products[0].input[0]


def several_axes(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    node.attribute.append(onnx.helper.make_attribute("axis", 0))


@pytest.mark.parametrize("damage", [scaled_product, cut_off_activations])
def test_a_product_in_int8_that_does_more_than_round_fails_however_little_it_moves(
    specimen, tmp_path: Path, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(specimen[1], tmp_path / "bundle"))
    edit_graph(bundle, "prefill", damage)
    reseal(bundle)
    receipt = verify(Bundle.open(bundle), check="size")
    assert [check.name for check in receipt.checks if not check.passed] == ["prefill graph"]


@pytest.mark.parametrize(
    "damage",
    [
        scaled_product,
        cut_off_activations,
        product_without_bias,
        columns_of_another_layer,
        activations_of_another_layer,
        several_axes,
    ],
)
def test_a_product_in_int8_of_something_else_is_counted(
    specimen, tmp_path: Path, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(specimen[1], tmp_path / "bundle"))
    edit_graph(bundle, "prefill", damage)
    assert graph_checks_of(bundle) == {"graph": 0, "prefill graph": 1}


def graph_checks_of(bundle: Path) -> dict[str, float]:
    reseal(bundle)
    checks = graph_checks(Bundle.open(bundle), "ort")
    return {check.name: check.difference.max_abs for check in checks}


def test_what_differs_in_a_graph_is_counted(specimen, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(specimen[1], tmp_path / "bundle"))
    assert graph_checks_of(bundle) == {"graph": 0, "prefill graph": 0}
    edit_graph(bundle, "decoder", one_node_more)
    assert graph_checks_of(bundle) == {"graph": 1, "prefill graph": 0}
    edit_graph(bundle, "decoder", lambda graph: graph.node.__delitem__(slice(2, 5)))
    assert graph_checks_of(bundle) == {"graph": 3, "prefill graph": 0}
    edit_graph(bundle, "prefill", larger_epsilon)
    assert graph_checks_of(bundle) == {"graph": 3, "prefill graph": 5}
    edit_graph(bundle, "exact", larger_epsilon)
    assert graph_checks_of(bundle)["prefill graph"] == 0


def test_an_omitted_input_at_the_end_of_a_node_is_no_difference(specimen, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(specimen[1], tmp_path / "bundle"))
    for part in ("exact", "decoder"):
        edit_graph(bundle, part, lambda graph: graph.node[-1].input.append(""))
    assert graph_checks_of(bundle) == {"graph": 0, "prefill graph": 0}
    edit_graph(bundle, "exact", lambda graph: graph.node[-1].input.__delitem__(-2))
    assert graph_checks_of(bundle) == {"graph": 1, "prefill graph": 1}


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

    edit_graph(bundle, "prefill", shrink)
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
