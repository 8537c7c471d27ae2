"""Graphs of quantised bundles that are not those which the exact checks prove.

Such faults move the logits less than rounded activations do, or are in graphs that no CPU runs.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from edit_graph import edit_graph
from reseal import reseal
from small_models import random_model, small_config, write_checkpoint

from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.proof.receipt import Check
from edgegpt.runtime.proof.same_graph import graph_checks
from edgegpt.runtime.proof.verify import verify


def exported(folder: Path, precision: str, **settings: object) -> Path:
    write_checkpoint(folder / "ckpt", random_model(small_config()))
    wanted = ExportSettings(method="rtn", max_kl=1e9, **settings)
    export_bundle(folder / "ckpt", folder / "bundle", precision=precision, settings=wanted)
    return folder / "bundle"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("int4"), "int4")


@pytest.fixture(scope="module")
def for_browsers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("browsers"), "int8", target="web")


def wider_attention(graph: onnx.GraphProto) -> None:
    node = [node for node in graph.node if node.op_type.endswith("Attention")][1]
    next(each for each in node.attribute if each.name == "scale").f *= 1.05


def larger_epsilon(graph: onnx.GraphProto) -> None:
    norms = [each for node in graph.node for each in node.attribute if each.name == "epsilon"]
    for epsilon in norms:
        epsilon.f = 1e-3


def exchanged(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Let nodes read other values than those that they read."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def another_weight_of_that_shape(graph: onnx.GraphProto) -> None:
    exchanged(graph, {"blocks.1.norm_2.weight": "blocks.1.norm_1.weight"})


def lost_residual(graph: onnx.GraphProto) -> None:
    """Drop what the first attention adds to the stream."""
    exchanged(graph, {"add_3": "add_1"})


def skipped_norm(graph: onnx.GraphProto) -> None:
    exchanged(graph, {"layer_norm_1": "add_3"})


def value_that_nothing_makes(graph: onnx.GraphProto) -> None:
    exchanged(graph, {"layer_norm_1": "nowhere"})


def keys_for_values(graph: onnx.GraphProto) -> None:
    turned = {"present_k.0": "present_v.0", "present_v.0": "present_k.0"}
    for node in graph.node:
        node.output[:] = [turned.get(name, name) for name in node.output]


def exchanged_tables(graph: onnx.GraphProto) -> None:
    tables = ("token_embedding.weight", "position_embedding.weight")
    exchanged(graph, dict(zip(tables, tables[::-1], strict=True)))


def another_place_in_the_file(graph: onnx.GraphProto) -> None:
    norms = {each.name: each for each in graph.initializer if each.name.endswith("norm_2.weight")}
    first, second = norms.values()
    del first.external_data[:]
    first.external_data.extend(second.external_data)


def one_node_more(graph: onnx.GraphProto) -> None:
    graph.node.append(onnx.helper.make_node("Abs", [graph.output[0].name], ["unread"]))


DAMAGES = [
    wider_attention,
    larger_epsilon,
    another_weight_of_that_shape,
    lost_residual,
    skipped_norm,
    value_that_nothing_makes,
    keys_for_values,
    exchanged_tables,
    another_place_in_the_file,
]
CHECKS = {
    "decoder.ort": "graph",
    "prefill.ort": "prefill graph",
    "half.ort": "half graph",
    "exact.standard-qdq": "standard-qdq graph",
}


@pytest.mark.parametrize("graph", CHECKS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_graph_that_is_not_the_one_proved_exactly_is_found(
    clean: Path, tmp_path: Path, graph: str, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    edit_graph(bundle, graph, damage)
    assert wrong_graphs(bundle) == [CHECKS[graph]]


@pytest.mark.parametrize("graph", CHECKS)
def test_it_fails_however_little_it_moves(clean: Path, tmp_path: Path, graph: str) -> None:
    """The other checks allow more, or do not run it."""
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    edit_graph(bundle, graph, wider_attention)
    reseal(bundle)
    receipt = verify(Bundle.open(bundle), check="size")
    assert [check.name for check in receipt.checks if not check.passed] == [CHECKS[graph]]


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
    clean: Path, tmp_path: Path, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    edit_graph(bundle, "prefill.ort", damage)
    reseal(bundle)
    receipt = verify(Bundle.open(bundle), check="size")
    assert [check.name for check in receipt.checks if not check.passed] == ["prefill graph"]


PRODUCT_DAMAGES = [
    scaled_product,
    cut_off_activations,
    product_without_bias,
    columns_of_another_layer,
    activations_of_another_layer,
    several_axes,
]


@pytest.mark.parametrize("damage", PRODUCT_DAMAGES)
def test_a_product_in_int8_of_something_else_is_found(
    clean: Path, tmp_path: Path, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    edit_graph(bundle, "prefill.ort", damage)
    assert wrong_graphs(bundle) == ["prefill graph"]


def graph_checks_of(bundle: Path) -> dict[str, Check]:
    reseal(bundle)
    opened = Bundle.open(bundle)
    checks = [check for each in ("ort", "standard") for check in graph_checks(opened, each)]
    return {check.name: check for check in checks}


def wrong_graphs(bundle: Path) -> list[str]:
    return [name for name, check in graph_checks_of(bundle).items() if not check.passed]


def uncorrected(graph: onnx.GraphProto) -> None:
    """Take no scale for a negative one."""
    node = next(node for node in graph.node if node.output[0] == "linear")
    exchanged(graph, {"linear": next(name for name in node.input if "uncorrected" in name)})


def corrections_of_another_layer(graph: onnx.GraphProto) -> None:
    own, other = (f"blocks.{layer}.attention.qkv.weight.corrections" for layer in (1, 0))
    exchanged(graph, {own: other})


def magnitudes_of_another_layer(graph: onnx.GraphProto) -> None:
    own, other = (f"blocks.{layer}.attention.qkv.weight.magnitudes" for layer in (1, 0))
    exchanged(graph, {own: other})


def smaller_blocks(graph: onnx.GraphProto) -> None:
    node = [node for node in graph.node if node.op_type == "DequantizeLinear"][-1]
    next(each for each in node.attribute if each.name == "block_size").i //= 2


def another_cut(graph: onnx.GraphProto) -> None:
    cut = next(each for each in graph.initializer if each.name.startswith("cut."))
    first, second, blocks, block = onnx.numpy_helper.to_array(cut)
    turned = np.array([first, second, block, blocks])
    cut.CopyFrom(onnx.numpy_helper.from_array(turned, cut.name))


@pytest.mark.parametrize(
    "damage",
    [
        uncorrected,
        corrections_of_another_layer,
        magnitudes_of_another_layer,
        smaller_blocks,
        another_cut,
    ],
)
def test_tensorrts_graph_must_dequantise_the_same_integers(
    clean: Path, tmp_path: Path, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    edit_graph(bundle, "exact.standard-qdq", damage)
    assert wrong_graphs(bundle) == ["standard-qdq graph"]


@pytest.mark.parametrize("damage", [*DAMAGES, *PRODUCT_DAMAGES])
def test_a_browsers_graph_that_is_not_the_one_proved_exactly_is_found(
    for_browsers: Path, tmp_path: Path, damage: Callable[[onnx.GraphProto], None]
) -> None:
    bundle = Path(shutil.copytree(for_browsers, tmp_path / "bundle"))
    assert list(graph_checks_of(bundle)) == ["graph"]
    assert not wrong_graphs(bundle)
    edit_graph(bundle, "decoder.ort", damage)
    assert wrong_graphs(bundle) == ["graph"]


def test_outputs_that_differ_are_counted(clean: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    before = graph_checks_of(bundle)
    assert list(before) == list(CHECKS.values())
    assert not wrong_graphs(bundle)
    edit_graph(bundle, "decoder.ort", forgotten_bias)
    assert graph_checks_of(bundle)["graph"].difference.max_abs == 1  # the logits
    edit_graph(bundle, "decoder.ort", wider_attention)
    assert graph_checks_of(bundle)["graph"].difference.max_abs == 3  # keys and values, too
    edit_graph(bundle, "decoder.ort", larger_epsilon)
    found = graph_checks_of(bundle)
    assert found["graph"].difference.max_abs == 5  # those of both layers
    assert found["graph"].difference.positions == before["graph"].difference.positions > 10
    assert [name for name, check in found.items() if not check.passed] == ["graph"]
    for part in ("exact", "prefill", "half"):
        edit_graph(bundle, f"{part}.ort", larger_epsilon)
    edit_graph(bundle, "exact.ort", wider_attention)
    assert wrong_graphs(bundle) == ["graph", "prefill graph", "half graph"]


def older_operators(model: onnx.ModelProto) -> None:
    model.opset_import[0].version -= 1


def another_function(model: onnx.ModelProto) -> None:
    node, opsets = onnx.helper.make_node("Abs", ["x"], ["y"]), model.opset_import
    function = onnx.helper.make_function("", "Relu", ["x"], ["y"], [node], opsets)
    model.functions.append(function)


def another_input(model: onnx.ModelProto) -> None:
    more = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1])
    model.graph.input.append(more)


def wider_logits(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value += 1


def cache_of_another_type(model: onnx.ModelProto) -> None:
    model.graph.input[-1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def sparse_weight(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(1)


@pytest.mark.parametrize(
    "damage",
    [
        older_operators,
        another_function,
        another_input,
        wider_logits,
        cache_of_another_type,
        sparse_weight,
    ],
)
def test_what_is_said_of_the_whole_graph_must_be_the_same(
    clean: Path, tmp_path: Path, damage: Callable[[onnx.ModelProto], None]
) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    for name, check in CHECKS.items():
        model = onnx.load(bundle / f"{name}.onnx", load_external_data=False)
        damage(model)
        onnx.save(model, bundle / f"{name}.onnx")
        assert wrong_graphs(bundle) == [check]
        shutil.copyfile(clean / f"{name}.onnx", bundle / f"{name}.onnx")


def forgotten_bias(graph: onnx.GraphProto) -> None:
    del graph.node[-1].input[5:]


def test_what_changes_no_result_is_no_difference(clean: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))

    def renamed(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name}_" if name.startswith("linear") else name for name in names]

    def turned(graph: onnx.GraphProto) -> None:
        node = next(node for node in graph.node if node.op_type == "Add")
        node.input[:] = node.input[::-1]

    for change in (renamed, turned, one_node_more):
        edit_graph(bundle, "decoder.ort", change)
    for part in ("exact", "decoder"):
        edit_graph(bundle, f"{part}.ort", lambda graph: graph.node[-1].input.append(""))
    assert not wrong_graphs(bundle)
    edit_graph(bundle, "exact.ort", lambda graph: graph.node[-1].input.__delitem__(-2))
    assert wrong_graphs(bundle) == ["graph", "prefill graph", "half graph"]


@pytest.mark.parametrize("kind", ["", ".scales"])
def test_integers_that_the_manifest_has_in_no_blocks_are_a_difference(
    clean: Path, tmp_path: Path, kind: str
) -> None:
    bundle = Path(shutil.copytree(clean, tmp_path / "bundle"))
    manifest = Bundle.open(bundle).manifest
    scales = next(name for name in manifest.weights if name.endswith(".scales"))
    name = scales.removesuffix(".scales") + kind
    flat = replace(manifest.weights[name], shape=[math.prod(manifest.weights[name].shape)])
    changed = replace(manifest, weights=manifest.weights | {name: flat})
    (bundle / "edgegpt.json").write_text(changed.to_json())
    assert wrong_graphs(bundle) == ["standard-qdq graph"]
