"""The places of a model that `bisect` compares: their names, and where a graph computes them.

Places are found by the weights' names: the node that reads `blocks.3.norm_1.weight` takes the
residual stream before block 3, and so on. This also works on damaged graphs. In models that do not
add up plain outputs of sub-layers, the norms alone are places. What a graph gives is a place, too,
with the name of the output; caches are not.
"""

from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from edgegpt.errors import BundleError
from edgegpt.model import GPT, GPTConfig, Seq2Seq
from edgegpt.model.layers import SubLayer
from edgegpt.runtime.bundle.manifest import Graph

__all__ = ["Part", "find_places", "part_of", "place_names"]

# The input index of the bias that a skip-norm adds together with the stream.
BIAS_PLACES = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}


@dataclass(frozen=True)
class Part:
    """What one graph computes: a GPT, or the encoder or the decoder of an encoder-decoder.

    Attributes:
        prefix: what the names of its modules begin with; empty for a GPT.
        config: its settings.
        layers: the readers of its residual stream in the order of computation. The last one reads
            what the blocks made of it.
        results: the outputs of its graph, except caches.
    """

    prefix: str
    config: GPTConfig
    layers: list[SubLayer]
    results: list[str]


def part_of(model: GPT | Seq2Seq, graph: Graph) -> Part:
    """Return the part of `model` that `graph` computes."""
    results = [port.name for port in graph.outputs if port.role != "cache"]
    if isinstance(model, GPT):
        return Part("", model.config, model.sub_layers(), results)
    if not graph.is_encoder:
        layers = [layer.within("decoder") for layer in model.decoder.sub_layers()]
        return Part("decoder.", model.config.decoder, layers, results)
    config = model.config.encoder
    sources = SubLayer("sources", "norm_final" if config.final_norm else None)
    layers = [layer.within("encoder") for layer in (*model.encoder.sub_layers(), sources)]
    return Part("encoder.", config, layers, results)


def place_names(part: Part) -> list[str]:
    """Return the names of all places in the order of computation."""
    if not _adds_outputs(part.config):
        return [*(name for layer in part.layers for name in layer.norms), *part.results]
    names = [f"{part.prefix}embedding"]
    for layer, following in pairwise(part.layers):
        names += [str(layer.norm), layer.name]
        if following.block != layer.block:
            names.append(layer.block)
    return [*names, str(part.layers[-1].norm), *part.results]


def find_places(model: ir.Model, part: Part) -> dict[str, ir.Value]:
    """Return the value of each place, found by the weights of the normalisations."""
    outputs = {str(value.name): value for value in model.graph.outputs}
    results = {name: outputs[name] for name in part.results}
    if _adds_outputs(part.config):
        return _between_norms(model, part) | results
    norms = [name for layer in part.layers for name in layer.norms]
    return {name: _reader(model, f"{name}.weight").outputs[0] for name in norms} | results


def _adds_outputs(config: GPTConfig) -> bool:
    """Return whether each sub-layer reads the stream through a norm and adds its output as it is.

    Then the places between the norms can be found from the sums.
    """
    plain = not config.parallel and config.residual_scale == 1.0
    return plain and config.norm_placement == "pre" and config.final_norm


def _between_norms(model: ir.Model, part: Part) -> dict[str, ir.Value]:
    """Return the norms, the streams that they read, and what was added in between."""
    layers = part.layers
    norms = [_reader(model, f"{layer.norm}.weight") for layer in layers]
    places = {str(layer.norm): norm.outputs[0] for layer, norm in zip(layers, norms, strict=True)}
    streams = [_stream(norm) for norm in norms]  # before each of the layers
    places[f"{part.prefix}embedding"] = streams[0]
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
    stream = _before_casts(_operand(norm, 0))
    if norm.op_type == "Mul":  # (x / root mean square of x) * weight
        operands = [_before_casts(value) for value in norm.inputs if value is not None]
        producers = (value.producer() for value in operands)
        scaled = next((node for node in producers if node is not None), norm)
        stream = _before_casts(_operand(scaled, 0))
    producer = stream.producer()
    if producer is not None and producer.op_type in ("GatherElements", "GatherND"):
        return _operand(producer, 0)  # the requested positions were gathered before the norm
    return stream


def _before_casts(value: ir.Value) -> ir.Value:
    """Return what was cast to give `value`: norms may compute in another type than the stream."""
    producer = value.producer()
    while producer is not None and producer.op_type == "Cast":
        value = _operand(producer, 0)
        producer = value.producer()
    return value


def _added(graph: ir.Graph, total: ir.Value, stream: ir.Value) -> ir.Value:
    """Return the value that was added to `stream` to give `total`."""
    node = total.producer()
    if node is not None and node.op_type in BIAS_PLACES:
        added, bias = _operand(node, 0), _input(node, BIAS_PLACES[node.op_type])
        if _before_casts(_operand(node, 1)) is stream:
            return added if bias is None else _sum(graph, node, added, bias)
    elif node is not None and node.op_type == "Add":
        terms = (_operand(node, 0), _operand(node, 1))
        others = [value for value in terms if _before_casts(value) is not stream]
        if len(others) == 1:
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
