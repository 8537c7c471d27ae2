"""From a traced model to a clean ONNX graph: lower, simplify, check."""

from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common
import torch
from onnxscript import optimizer
from onnxscript.onnx_opset import opset18

from edgegpt.errors import ExportError
from edgegpt.runtime.bundle.manifest import Graph, Port
from edgegpt.runtime.bundle.vocabulary import Part

from .lazy_weights import model_weight
from .lowerings import Lowering
from .passes import FoldWeightTransposes, ShareDimensions
from .tracing import Traced, quiet

__all__ = ["build_graph", "describe"]

# Roles of ports by what their names begin with; the number of a layer follows.
PER_LAYER = {
    f"{of}_{kind}": role
    for of, role in (("past", "cache"), ("present", "cache"), ("source", "source"))
    for kind in "kv"
}

op: Any = opset18  # Any: onnxscript types its operators for eager evaluation


def build_graph(traced: Traced, lowering: Lowering) -> ir.Model:
    """Return the ONNX graph of a traced model."""
    program = _lower(traced, lowering)
    graph = program.model
    _name_weights(graph.graph, traced)
    _simplify(graph)
    edits = lowering.passes if traced.path == "decoder" else lowering.encoder_passes
    for edit in (*edits, *(lowering.half_passes if _is_half(graph) else ())):
        edit()(graph)
    _clean(graph)
    graph.ir_version = lowering.ir_version
    graph.producer_name, graph.producer_version = "edgegpt", None
    found = graph.opset_imports.get("")
    if found != lowering.opset:  # the exporter may raise the opset silently
        raise ExportError(f"asked torch.onnx for opset {lowering.opset}, got {found}")
    return graph


def describe(model: ir.Model, lowering: Lowering, part: Part) -> Graph:
    """Return the manifest's entry for the graph, with its ports by role."""
    name = f"{part}.{lowering.name}"
    inputs = [_port(value) for value in model.graph.inputs]
    outputs = [_port(value) for value in model.graph.outputs]
    return Graph(
        name=name,
        file=f"{name}.onnx",
        part=part,
        lowering=lowering.name,
        opset=lowering.opset,
        inputs=inputs,
        outputs=outputs,
    )


def _lower(traced: Traced, lowering: Lowering) -> torch.onnx.ONNXProgram:
    with quiet():
        program = torch.onnx.export(
            traced.program,
            dynamo=True,
            dynamic_shapes=traced.shapes,
            opset_version=lowering.opset,
            custom_translation_table={torch.ops.aten.to.dtype: _cast, **lowering.translations},
            input_names=traced.inputs,
            output_names=traced.outputs,
            optimize=False,  # torch.onnx's optimizer renames weights and merges equal ones
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export gave no program")
    return program


def _cast(x: Any, dtype: int) -> Any:
    """Emit the cast of `x` to a type of ONNX; torch.onnx knows it under another name only."""
    return op.Identity(x) if x.dtype == dtype else op.Cast(x, to=dtype)


def _name_weights(graph: ir.Graph, traced: Traced) -> None:
    """Give the weights the names of the model's parameters, and their values, which are lazy.

    A table of whole numbers is no weight, but a constant of the graph.
    """
    for name, value in list(graph.initializers.items()):
        own = name.removeprefix("model.")
        value.name = traced.tied_names.get(own, own)
        table = traced.tables.get(value.name)
        if table is not None and not table.is_floating_point():
            value.const_value = ir.tensor(table.numpy(), name=value.name)
        elif table is not None or value.name in traced.weights:
            values = traced.weights if table is None else traced.tables
            value.const_value = model_weight(value, values)


def _simplify(model: ir.Model) -> None:
    """Fold constants, merge equal subexpressions, and drop unused nodes; leave weights alone."""
    weights = set(model.graph.initializers.values())
    ShareDimensions()(model)
    FoldWeightTransposes()(model)
    optimizer.fold_constants(
        model, should_fold=lambda node: False if weights.intersection(node.inputs) else None
    )
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.CommonSubexpressionEliminationPass()(model)


def _clean(model: ir.Model) -> None:
    """Drop unused nodes and opsets, drop metadata of the export, fix names, sort the nodes."""
    for simplification in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.NameFixPass(),
        common.TopologicalSortPass(),
    ):
        simplification(model)
    wanted = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if not value.uses() and value not in wanted:
                value.name = ""  # in ONNX, an omitted optional output


def _is_half(model: ir.Model) -> bool:
    """Return whether keys and values, of texts or of sources, are in half precision."""
    ports = (*model.graph.inputs, *model.graph.outputs)
    return any(value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) for value in ports)


def _port(value: ir.Value) -> Port:
    name = str(value.name)
    shape = [size if isinstance(size, int) else str(size.value) for size in value.shape or ()]
    kind, _, layer = name.partition(".")
    role = PER_LAYER[kind] if layer else name
    present = name.replace("past", "present") if kind.startswith("past_") and layer else None
    entry = {
        "name": name,
        "role": role,
        "dtype": str(value.dtype.numpy()) if value.dtype else "float32",
        "shape": shape,
        "present": present,
    }
    return Port.of(entry, "the exported graph")
