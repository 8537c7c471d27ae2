"""From a PyTorch model to a clean ONNX graph: trace, lower, simplify, check.

Inputs and outputs, with B batch, T new tokens, S context, P requested positions, K kv heads, D head
width, V vocabulary:

    ids int64 [B, T], past_len int64 [B], logit_positions int64 [B, P],
    past_k.<layer>, past_v.<layer> [B, K, S, D], in the compute type of the layer
    -> logits float32 [B, P, V], present_k.<layer>, present_v.<layer> [B, K, S, D]
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common
import torch
from onnxscript import optimizer
from onnxscript.onnx_opset import opset18
from torch import Tensor, nn

from edgegpt.errors import ExportError
from edgegpt.model import GPT
from edgegpt.runtime.bundle.manifest import Graph, Port
from edgegpt.runtime.bundle.vocabulary import AXES, Part

from .lazy_weights import model_weight
from .lowerings import Lowering
from .passes import FoldWeightTransposes, ShareDimensions

__all__ = ["Traced", "build_decoder_graph", "describe", "trace"]

op: Any = opset18  # Any: onnxscript types its operators for eager evaluation

# Sizes to trace with. All differ, and none is 1, because torch.export would make a 1 constant.
EXAMPLE = {"batch": 2, "new_tokens": 3, "context": 7, "logit_positions": 5}


class _Decoder(nn.Module):
    """The cached path, with a flat tuple of logits and cache tensors as its result."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Tensor,
        past_len: Tensor,
        logit_positions: Tensor,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        logits, present = self.model.forward_cached(ids, past_len, logit_positions, past)
        return (logits, *(tensor for layer in present for tensor in layer))


class _Program(torch.export.ExportedProgram):
    """A traced program that is decomposed only if it has an operator that must be.

    torch.onnx decomposes every program, which traces all of it again, whether or not it has an
    operator without a translation.
    """

    def __init__(self, traced: torch.export.ExportedProgram) -> None:
        vars(self).update(vars(traced))

    def run_decompositions(
        self, decomp_table: dict[Any, Any] | None = None, decompose_custom_triton_ops: bool = False
    ) -> torch.export.ExportedProgram:
        """Return a program without the operators that are keys of `decomp_table`."""
        operators = {node.target for node in self.graph.nodes}
        if decomp_table is not None and operators.isdisjoint(decomp_table):
            return self
        program: torch.export.ExportedProgram
        program = super().run_decompositions(decomp_table, decompose_custom_triton_ops)
        return program


@dataclass(frozen=True)
class Traced:
    """The cached path of a model, traced by torch.export once for all lowerings.

    It has no values: `weights` has those of the parameters, and `tables` those of the buffers.
    """

    program: torch.export.ExportedProgram
    n_layer: int
    tied_names: dict[str, str]
    weights: Mapping[str, Tensor]
    tables: Mapping[str, Tensor]


def trace(model: GPT, weights: Mapping[str, Tensor] | None = None) -> Traced:
    """Trace `model`'s cached path.

    Args:
        model: the model. Only shapes and types count; its weights may be on the meta device.
        weights: the values of its weights, in any type; None: its own.
    """
    n_layer = model.config.n_layer
    shapes = _on_meta(model)
    with _quiet():
        program = torch.export.export(
            _Decoder(shapes).eval(),
            _example(shapes),
            dynamic_shapes=_dynamic_shapes(n_layer),
            strict=False,
        )
    values = dict(model.named_parameters()) if weights is None else weights
    return Traced(
        _Program(program), n_layer, model.tied_names(), values, dict(model.named_buffers())
    )


def _on_meta(model: GPT) -> GPT:
    """Return a copy of `model` on the meta device, made without copying any value."""
    places: dict[int, Tensor] = {id(it): nn.Parameter(it.to("meta")) for it in model.parameters()}
    places |= {id(it): it.to("meta") for it in model.buffers()}
    return copy.deepcopy(model, places)


def build_decoder_graph(traced: Traced, lowering: Lowering) -> ir.Model:
    """Return the ONNX graph of a traced model."""
    program = _lower(traced, lowering)
    graph = program.model
    _name_weights(graph.graph, traced)
    _simplify(graph)
    for edit in lowering.passes:
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
    cache = [f"{kind}.{layer}" for layer in range(traced.n_layer) for kind in ("past_k", "past_v")]
    present = [name.replace("past", "present") for name in cache]
    with _quiet():
        program = torch.onnx.export(
            traced.program,
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(traced.n_layer),
            opset_version=lowering.opset,
            custom_translation_table={torch.ops.aten.to.dtype: _cast, **lowering.translations},
            input_names=["ids", "past_len", "logit_positions", *cache],
            output_names=["logits", *present],
            optimize=False,  # torch.onnx's optimizer renames weights and merges equal ones
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export gave no program")
    return program


def _cast(x: Any, dtype: int) -> Any:
    """Emit the cast of `x` to a type of ONNX; torch.onnx knows it under another name only."""
    return op.Identity(x) if x.dtype == dtype else op.Cast(x, to=dtype)


def _example(model: GPT) -> tuple[object, ...]:
    size = EXAMPLE
    with torch.device("meta"):
        ids = torch.zeros(size["batch"], size["new_tokens"], dtype=torch.int64)
        past_len = torch.ones(size["batch"], dtype=torch.int64)
        positions = torch.zeros(size["batch"], size["logit_positions"], dtype=torch.int64)
    return ids, past_len, positions, model.empty_cache(size["batch"], size["context"])


def _dynamic_shapes(n_layer: int) -> tuple[object, ...]:
    batch, new_tokens, context, positions = (torch.export.Dim(name) for name in AXES)
    cache = {0: batch, 2: context}
    past = [(cache, cache) for _ in range(n_layer)]
    return {0: batch, 1: new_tokens}, {0: batch}, {0: batch, 1: positions}, past


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


def _port(value: ir.Value) -> Port:
    name = str(value.name)
    shape = [size if isinstance(size, int) else str(size.value) for size in value.shape or ()]
    is_cache = name.startswith(("past_k.", "past_v.", "present_k.", "present_v."))
    present = name.replace("past", "present") if name.startswith(("past_k.", "past_v.")) else None
    entry = {
        "name": name,
        "role": "cache" if is_cache else name,
        "dtype": str(value.dtype.numpy()) if value.dtype else "float32",
        "shape": shape,
        "present": present,
    }
    return Port.of(entry, "the exported graph")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress messages and its warnings from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
