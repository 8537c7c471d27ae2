"""Find the first place in an exported graph that computes something different from PyTorch.

The graph is compared with the plain path of the PyTorch model. The compared places are the residual
stream after every block, and the normalisations, the attention and the feed-forward inside it. The
input is the golden prompt that is fed in pieces, so that the cache is used, and the far ones. Extra
outputs are added to a temporary copy of the graph, never to the bundle.

Places are found by the weights' names: the node that reads `blocks.3.norm_1.weight` takes the
residual stream before block 3, and so on. This also works on damaged graphs. In models that do not
add up plain outputs of sub-layers, the norms alone are compared.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.errors import BundleError, CheckpointError
from edgegpt.model import GPT, GPTConfig
from edgegpt.model.layers import SubLayer
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Golden, Prompt
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.proof.far_past import far_past
from edgegpt.runtime.proof.tolerances import TOLERANCES

from .past import cut_past, torch_past

__all__ = ["Place", "bisect", "first_wrong"]

# The input index of the bias that a skip-norm adds together with the stream.
BIAS_PLACES = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}


@dataclass(frozen=True)
class Place:
    """One tensor of the model: its name, and the graph's error against PyTorch.

    `error` is max |difference| / max |reference|, or infinity if the graph's tensor is not finite.
    """

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


def bisect(bundle: Bundle, model: GPT, graph: Graph) -> list[Place]:
    """Return all places in the order of computation; the first one that fails is the culprit.

    Raises:
        CheckpointError: if the settings of `model` differ from those that were exported.
        BundleError: if the bundle is quantised, because it then differs from the checkpoint.
    """
    if bundle.manifest.quantization is not None:
        raise BundleError(
            f"cannot bisect a bundle in {bundle.manifest.precision}: its graphs do not compute "
            f"what the checkpoint does; bisect a float32 export of the same checkpoint"
        )
    if model.config.to_dict() != bundle.manifest.model:
        raise CheckpointError("the checkpoint's model is not the one of the bundle: they differ")
    golden = Golden.load(bundle.file(GOLDEN_NAME))
    prompts = [golden.chunked, *golden.far]
    reference = _reference(model, golden, prompts)
    with _probed_graph(bundle, graph, model) as (path, probes):
        session = _open(path)
        pieces = [golden.chunk_sizes, *([len(prompt.ids)] for prompt in golden.far)]
        runs = [
            _run(session, golden, graph, probes, *feed)
            for feed in zip(prompts, pieces, strict=True)
        ]
    found = {name: np.concatenate([run[name] for run in runs]) for name in reference}
    tolerance = TOLERANCES[bundle.manifest.precision]
    return [Place(name, _error(found[name], reference[name]), tolerance) for name in reference]


def first_wrong(places: list[Place]) -> str | None:
    """Return the name of the first place out of tolerance, or None."""
    return next((place.name for place in places if not place.passed), None)


def place_names(model: GPT) -> list[str]:
    """Return the names of all places in the order of computation."""
    layers = model.sub_layers()
    if not _adds_outputs(model.config):
        return [*(name for layer in layers for name in layer.norms), "logits"]
    names = ["embedding"]
    for layer, following in pairwise(layers):
        names += [str(layer.norm), layer.name]
        if following.block != layer.block:
            names.append(layer.block)
    return [*names, str(layers[-1].norm), "logits"]


def _adds_outputs(config: GPTConfig) -> bool:
    """Return whether each sub-layer reads the stream through a norm and adds its output as it is.

    Then the places between the norms can be found from the sums.
    """
    plain = not config.parallel and config.residual_scale == 1.0
    return plain and config.norm_placement == "pre" and config.final_norm


@torch.no_grad()
def _reference(model: GPT, golden: Golden, prompts: list[Prompt]) -> dict[str, NDArray[np.float32]]:
    """Return each place's tensor [T, width] in PyTorch, in the order of computation.

    T counts the tokens of all prompts.
    """
    names = place_names(model)
    values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_hook(_keeper(values, name))
        for name in names
        if name not in ("embedding", "logits")
    ]
    if "embedding" in names:
        before = model.blocks[0].register_forward_pre_hook(_keeper(values, "embedding"))
        handles.append(before)
    past = torch_past(golden.past, max(prompt.past_len for prompt in prompts))
    try:
        for prompt in prompts:
            ids = torch.from_numpy(prompt.ids)[None]  # (1, T)
            values["logits"].append(model(ids, cut_past(past, prompt.past_len))[0].numpy())
    finally:
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _keeper(values: dict[str, list[NDArray[np.float32]]], name: str) -> Callable[..., None]:
    """Return a hook that keeps the first input (before) or the output (after) of a module."""

    def keep(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        tensor = inputs[0] if output is None else output
        values[name].append(tensor[0].numpy().copy())  # (T, width)

    return keep


@contextmanager
def _probed_graph(
    bundle: Bundle, graph: Graph, reference: GPT
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the path of a copy of the graph with an output per place, and place -> output name."""
    with tempfile.TemporaryDirectory(prefix="edgegpt-bisect-") as folder:
        copy = Path(folder) / "probed.onnx"
        shutil.copyfile(
            bundle.file(bundle.manifest.weights_file), copy.parent / bundle.manifest.weights_file
        )
        model = ir.load(bundle.file(graph.file))
        probes = _find_places(model, reference)
        outputs = {value.name for value in model.graph.outputs}
        for value in probes.values():
            if value.name not in outputs:
                value.dtype = value.dtype or ir.DataType.FLOAT
                model.graph.outputs.append(value)
                outputs.add(value.name)
        ir.save(model, copy)
        yield copy, {name: str(value.name) for name, value in probes.items()}


def _find_places(model: ir.Model, reference: GPT) -> dict[str, ir.Value]:
    """Return the value of each place, found by the weights of the normalisations."""
    (logits,) = [value for value in model.graph.outputs if value.name == "logits"]
    layers = reference.sub_layers()
    if not _adds_outputs(reference.config):
        found = {
            name: _reader(model, f"{name}.weight").outputs[0]
            for name in place_names(reference)[:-1]
        }
        return found | {"logits": logits}
    return _between_norms(model, layers) | {"logits": logits}


def _between_norms(model: ir.Model, layers: list[SubLayer]) -> dict[str, ir.Value]:
    """Return the norms, the streams that they read, and what was added in between."""
    norms = [_reader(model, f"{layer.norm}.weight") for layer in layers]
    places = {str(layer.norm): norm.outputs[0] for layer, norm in zip(layers, norms, strict=True)}
    streams = [_stream(norm) for norm in norms]  # before each sub-layer and before the head
    places["embedding"] = streams[0]
    for (layer, following), (before, after) in zip(
        pairwise(layers), pairwise(streams), strict=True
    ):
        places[layer.name] = _added(model.graph, after, before)
        if following.block != layer.block:
            places[layer.block] = after
    return places


def _reader(model: ir.Model, weight: str) -> ir.Node:
    """Return the norm node that reads `weight`; for a norm of several nodes, its last Mul."""
    value = model.graph.initializers.get(weight)
    users = [] if value is None else [use.node for use in value.uses()]
    readers = [node for node in users if node.op_type.endswith(("Normalization", "Mul"))]
    if len(readers) != 1:
        raise BundleError(f"cannot bisect: the graph has {len(readers)} norms that read {weight}")
    return readers[0]


def _stream(norm: ir.Node) -> ir.Value:
    """Return the residual stream that a norm reads; for a skip-norm, its last output."""
    if norm.op_type.startswith("Skip"):
        if len(norm.outputs) < 4:
            norm.resize_outputs(4)  # the file leaves out outputs that nothing reads
            norm.outputs[1].name = norm.outputs[2].name = ""
        total = norm.outputs[3]
        total.name = total.name or f"{norm.outputs[0].name}.sum"
        return total
    stream = _operand(norm, 0)
    if norm.op_type == "Mul":  # (x * 1 / root mean square of x) * weight
        producers = (value.producer() for value in norm.inputs if value is not None)
        scaled = next((node for node in producers if node is not None), norm)
        stream = _operand(scaled, 0)
    producer = stream.producer()
    if producer is not None and producer.op_type == "GatherElements":
        return _operand(producer, 0)  # the requested positions were gathered before the norm
    return stream


def _added(graph: ir.Graph, total: ir.Value, stream: ir.Value) -> ir.Value:
    """Return the value that was added to `stream` to give `total`."""
    node = total.producer()
    if node is not None and node.op_type in BIAS_PLACES:
        added, bias = _operand(node, 0), _input(node, BIAS_PLACES[node.op_type])
        if _operand(node, 1) is stream:
            return added if bias is None else _sum(graph, node, added, bias)
    elif node is not None and node.op_type == "Add":
        others = [value for value in node.inputs if value is not stream]
        if len(others) == 1 and others[0] is not None:
            return others[0]
    raise BundleError(f"cannot bisect: {total.name} is not the sum of two streams")


def _input(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if len(node.inputs) > place else None


def _operand(node: ir.Node, place: int) -> ir.Value:
    """Return an input that the operator requires."""
    value = _input(node, place)
    if value is None:
        raise BundleError(f"cannot bisect: {node.outputs[0].name} is computed from nothing")
    return value


def _sum(graph: ir.Graph, before: ir.Node, added: ir.Value, bias: ir.Value) -> ir.Value:
    """Add a node that computes added + bias, a sum that is internal to the skip-norm `before`."""
    node = ir.node("Add", [added, bias])
    node.outputs[0].name = f"{added.name}.with_bias"
    graph.insert_before(before, node)
    return node.outputs[0]


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: ORT warns of copied caches, which is expected
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession,
    golden: Golden,
    graph: Graph,
    probes: dict[str, str],
    prompt: Prompt,
    sizes: list[int],
) -> dict[str, NDArray[np.float32]]:
    """Feed the prompt in pieces, after its past; return each place's tensor [T, width]."""
    ports, filled = graph.caches(), prompt.past_len
    shape = {"batch": 1, "context": filled + len(prompt.ids)}
    cache = {port.name: np.zeros(port.sized(shape), dtype=port.dtype) for port in ports}
    for port, values in zip(ports, far_past(golden.past, filled), strict=True):
        cache[port.name][0, :, :filled] = values
    pieces: dict[str, list[NDArray[np.float32]]] = {name: [] for name in probes}
    start = 0
    for size in sizes:
        feeds = _feeds(graph, prompt.ids[None, start : start + size], filled + start) | cache
        names = [*probes.values(), *(str(port.present) for port in graph.caches())]
        results = dict(zip(names, session.run(names, feeds), strict=True))
        for name, output in probes.items():
            pieces[name].append(results[output][0])
        cache = {port.name: results[str(port.present)] for port in graph.caches()}
        start += size
    return {name: np.concatenate(parts) for name, parts in pieces.items()}


def _feeds(graph: Graph, ids: NDArray[np.int64], past: int) -> dict[str, NDArray[Any]]:
    """Return the graph's inputs, except the caches, for `ids` [1, T] after `past` tokens."""
    size = ids.shape[1]
    by_role = {
        "ids": ids,
        "past_len": np.array([past]),
        "seqlens_k": np.array([past + size - 1], dtype=np.int32),
        "total_sequence_length": np.array([past + size], dtype=np.int32),
        "position_ids": past + np.arange(size)[None],
        "logit_positions": np.arange(size)[None],
    }
    sizes = {"batch": 1, "new_tokens": size, "logit_positions": size}
    return {
        port.name: by_role[port.role].reshape(port.sized(sizes))
        for port in graph.inputs
        if port.role != "cache"
    }


def _error(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - reference).max() / np.abs(reference).max())
