"""Turn a bundle's graph into a TensorRT network, and check that it is the same computation.

TensorRT's parser accepts some graphs that it then computes wrongly. For example, it silently drops
the input `nonpad_kv_seqlen` of an Attention, for which `supports_operator` returns True. So the
network is compared with the graph and with the manifest before anything is built.
"""

import re
from pathlib import Path
from typing import Any

from ...bundle.manifest import Graph, Port
from ...bundle.onnx_file import Node, graph_nodes, with_sizes
from ...bundle.vocabulary import AXES
from ...errors import EngineError
from ...files import library_path
from .flavour import Flavour
from .log import Log

__all__ = ["data_type", "make_attention_decomposable", "parse_network", "static_shape"]

# The vendor's names of data types, by the manifest's.
DATA_TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
}
DYNAMIC = -1
# Operators whose nodes become no layer of their own.
FOLDED = ("Constant", "Identity")
ATTENTION_INPUTS = 4  # query, key, value, mask; TensorRT drops any further inputs
LAYER_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def parse_network(
    flavour: Flavour, log: Log, builder: Any, path: Path, graph: Graph, context: int
) -> Any:
    """Return the network of `graph`, whose file is at `path`, with a cache of `context` slots.

    Raises:
        EngineError: if TensorRT cannot read the graph, or would compute something else.
        BundleError: if the graph is not an ONNX file.
    """
    model = with_sizes(path.read_bytes(), {"context": context})
    nodes = graph_nodes(model)
    _check_nodes(nodes, graph)
    network = builder.create_network(flavour.network_flags())
    parser = flavour.module.OnnxParser(network, log.logger)
    if not parser.parse(model, library_path(path)):  # TensorRT looks for the weights beside `path`
        reasons = [_reason(parser.get_error(index)) for index in range(parser.num_errors)]
        told = "; ".join(reasons[:3]) or log.last()
        raise EngineError(f"{flavour.name} cannot read {graph.file}: {told}")
    _check_ports(flavour, network, graph, context)
    _check_layers(flavour, network, nodes, graph)
    return network


def make_attention_decomposable(flavour: Flavour, network: Any) -> None:
    """Let TensorRT decompose attention if it has no fused kernel; with a mask it has none."""
    for attention in _attentions(flavour, network):
        attention.decomposable = True


def data_type(flavour: Flavour, port: Port) -> Any:
    """Return the vendor's data type of a port.

    Raises:
        EngineError: if TensorRT has no such data type.
    """
    name = DATA_TYPES.get(port.dtype)
    if name is None or not hasattr(flavour.module.DataType, name):
        raise EngineError(f"{flavour.name} has no data type {port.dtype} for {port.name}")
    return getattr(flavour.module.DataType, name)


def static_shape(port: Port, context: int) -> tuple[int, ...]:
    """Return a port's shape in the network: `context` is a number, other symbols are -1."""
    return port.sized({**dict.fromkeys(AXES, DYNAMIC), "context": context})


def _check_nodes(nodes: list[Node], graph: Graph) -> None:
    """Refuse nodes that the parser would accept and TensorRT then compute wrongly."""
    for node in nodes:
        if node.domain not in ("", "ai.onnx"):
            raise EngineError(
                f"{graph.file} has the node {node.name} of {node.domain}.{node.op_type}, which is "
                f"no standard ONNX operator: TensorRT cannot compute it"
            )
        if node.op_type != "Attention":
            continue
        if any(node.inputs[ATTENTION_INPUTS:]):
            raise EngineError(
                f"{graph.file}: {node.name} has nonpad_kv_seqlen or a cache as inputs of "
                f"Attention, which TensorRT drops: it needs a mask and nothing more"
            )
        if not any(node.inputs[ATTENTION_INPUTS - 1 :]):
            raise EngineError(
                f"{graph.file}: {node.name} has no mask: TensorRT would let every token see the "
                f"whole cache"
            )


def _check_ports(flavour: Flavour, network: Any, graph: Graph, context: int) -> None:
    """Compare the network's inputs and outputs with those of the manifest."""
    found = {
        "inputs": [network.get_input(index) for index in range(network.num_inputs)],
        "outputs": [network.get_output(index) for index in range(network.num_outputs)],
    }
    for kind, ports in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        tensors = {tensor.name: tensor for tensor in found[kind]}
        if set(tensors) != {port.name for port in ports}:
            raise EngineError(
                f"{graph.file} as {flavour.name} reads it has the {kind} {', '.join(tensors)}, the "
                f"manifest lists {', '.join(port.name for port in ports)}"
            )
        for port in ports:
            tensor = tensors[port.name]
            shape, wanted = tuple(tensor.shape), static_shape(port, context)
            if tensor.dtype != data_type(flavour, port) or shape != wanted:
                raise EngineError(
                    f"{port.name} of {graph.file} is {tensor.dtype} {list(shape)} as "
                    f"{flavour.name} reads it, the manifest says {port.dtype} {list(wanted)}"
                )


def _check_layers(flavour: Flavour, network: Any, nodes: list[Node], graph: Graph) -> None:
    """Check that every node of the graph became a layer, and that attention kept its mask."""
    made: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        made.update(LAYER_ORIGIN.findall(layer.metadata or ""))
        outputs = (layer.get_output(number) for number in range(layer.num_outputs))
        made.update(output.name for output in outputs if output is not None)
    for node in nodes:
        if node.op_type not in FOLDED and not made.intersection([node.name, *node.outputs]):
            raise EngineError(
                f"{flavour.name} dropped the node {node.name} ({node.op_type}) of {graph.file}"
            )
    attentions = _attentions(flavour, network)
    wanted = sum(node.op_type == "Attention" for node in nodes)
    if len(attentions) != wanted:
        raise EngineError(
            f"{graph.file} has {wanted} Attention nodes, {flavour.name} made {len(attentions)}"
        )
    for attention in attentions:
        if attention.mask is None or attention.causal:
            raise EngineError(
                f"{flavour.name} lost the mask of an Attention of {graph.file}: tokens would see "
                f"what they must not"
            )


def _attentions(flavour: Flavour, network: Any) -> list[Any]:
    """Return the network's attention operators; versions before 10.14 have none."""
    kind = getattr(flavour.module.LayerType, "ATTENTION_INPUT", None)
    found = []
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = flavour.module.IAttentionInputLayer  # the bindings' way to downcast
            found.append(layer.attention)
    return found


def _reason(error: Any) -> str:
    """Return the first line that tells why the parser failed, and at which node."""
    lines = [line.strip() for line in str(error.desc()).splitlines() if line.strip()]
    told = next((line for line in lines if not line.startswith("Invalid Node")), "unknown error")
    return f"{error.node_name()}: {told}" if error.node_name() else told
