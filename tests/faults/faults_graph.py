"""Faults of a graph: each edits the ONNX nodes, and changes the PyTorch model in the same way."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from edgegpt.model import GPT

__all__ = ["GRAPH_FAULTS", "GraphFault"]

OVERFLOWING = 1e5  # times a value above 0.66 is more than float16 can hold


@dataclass(frozen=True)
class GraphFault:
    """The same damage in both forms, for the model `specimen` and its graph `lowering`."""

    graph: Callable[[onnx.GraphProto], None]
    model: Callable[[GPT, "object"], None]
    specimen: str = "relu"
    lowering: str = "standard"


def nodes(graph: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    """Return the nodes of a kind; ONNX Runtime's fused operators have longer names."""
    return [node for node in graph.node if node.op_type.endswith(kind)]


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(attribute for attribute in node.attribute if attribute.name == name)


def insert_after(graph: onnx.GraphProto, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
    """Insert `new` after `node`; the nodes read `<output>_raw` and give the output's old name."""
    name = node.output[0]
    node.output[0] = f"{name}_raw"
    new[0].input[0], new[-1].output[0] = f"{name}_raw", name
    place = list(graph.node).index(node) + 1
    rest = list(graph.node)[place:]
    del graph.node[place:]
    graph.node.extend([*new, *rest])


def constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def feed_forward_out(graph: onnx.GraphProto) -> onnx.NodeProto:
    """Return the node that adds the bias of block 1's feed-forward layer."""
    return next(n for n in graph.node if "blocks.1.feed_forward.down.bias" in n.input)


def scale_graph(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Attention"):
        attribute(node, "scale").f *= 1.01


def scale_model(model: GPT, patch) -> None:
    patched_attention(patch, lambda scale: scale * 1.01, lambda length: causal(length, 0))


def blind_graph(graph: onnx.GraphProto) -> None:
    """Hide each token from itself, except the first one, which would otherwise see nothing."""
    (compare,) = nodes(graph, "LessOrEqual")
    last = constant(graph, "one_back", np.array(1, dtype=np.int64))
    zero = constant(graph, "at_least_0", np.array(0, dtype=np.int64))
    place = list(graph.node).index(compare)
    position = compare.input[1]
    moved = [
        helper.make_node("Sub", [position, last], ["position_before"]),
        helper.make_node("Max", ["position_before", zero], ["position_kept"]),
    ]
    compare.input[1] = "position_kept"
    rest = list(graph.node)[place:]
    del graph.node[place:]
    graph.node.extend([*moved, *rest])


def blind_model(model: GPT, patch) -> None:
    def mask(length: int) -> torch.Tensor:
        seen = causal(length, -1)
        seen[0, 0] = True
        return seen

    patched_attention(patch, lambda scale: scale, mask)


def ahead_graph(graph: onnx.GraphProto) -> None:
    (compare,) = nodes(graph, "LessOrEqual")
    one = constant(graph, "one_ahead", np.array(1, dtype=np.int64))
    place = list(graph.node).index(compare)
    moved = helper.make_node("Add", [compare.input[1], one], ["position_ahead"])
    compare.input[1] = "position_ahead"  # before the nodes are copied back
    rest = list(graph.node)[place:]
    del graph.node[place:]
    graph.node.extend([moved, *rest])


def ahead_model(model: GPT, patch) -> None:
    patched_attention(patch, lambda scale: scale, lambda length: causal(length, 1))


def causal(length: int, ahead: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril(ahead)


def patched_attention(patch, change_scale, mask_of) -> None:
    honest = F.scaled_dot_product_attention

    def attend(q, k, v, seen, *, is_causal, dropout_p, scale, enable_gqa):
        length = k.shape[2]  # of the past and the new tokens, which come last
        mask = mask_of(length)[length - q.shape[2] :]
        return honest(q, k, v, mask, dropout_p, scale=change_scale(scale), enable_gqa=enable_gqa)

    patch.setattr("edgegpt.model.attention.F.scaled_dot_product_attention", attend)


def epsilon_graph(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "LayerNormalization"):
        attribute(node, "epsilon").f = 1e-3


def epsilon_model(model: GPT, patch) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3


def gelu_graph(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Relu"):
        node.op_type = "Gelu"


def set_activation(kind: str) -> Callable[[GPT, object], None]:
    def change(model: GPT, patch) -> None:
        for block in model.blocks:
            block.feed_forward.activation = kind

    return change


def tanh_graph(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Gelu"):
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("approximate", "tanh"))


def norm_graph(graph: onnx.GraphProto) -> None:
    node = next(n for n in graph.node if "norm_final.weight" in n.input)
    node.op_type = "Identity"
    del node.input[1:], node.attribute[:]


def norm_model(model: GPT, patch) -> None:
    model.norm_final = torch.nn.Identity()


def dropout_graph(graph: onnx.GraphProto) -> None:
    """Drop a fifth of the values, chosen by their decimal digits.

    ONNX Runtime takes a Dropout node for an identity, and has no random operators in opset 24.
    """
    many = constant(graph, "many", np.array(1e4, dtype=np.float32))
    drop = constant(graph, "drop", np.array(0.2, dtype=np.float32))
    keep = constant(graph, "keep", np.array(0.8, dtype=np.float32))
    new = [
        helper.make_node("Identity", [""], ["dry"]),
        helper.make_node("Mul", ["dry", many], ["large"]),
        helper.make_node("Floor", ["large"], ["whole"]),
        helper.make_node("Sub", ["large", "whole"], ["random"]),
        helper.make_node("Less", [drop, "random"], ["lives"]),
        helper.make_node("Cast", ["lives"], ["survivors"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["dry", "survivors"], ["thinned"]),
        helper.make_node("Div", ["thinned", keep], [""]),
    ]
    insert_after(graph, feed_forward_out(graph), new)


def dropout_model(model: GPT, patch) -> None:
    model.blocks[1].feed_forward.dropout = torch.nn.Dropout(0.2).train()


def overflow_graph(graph: onnx.GraphProto) -> None:
    factor = constant(graph, "factor", np.array(OVERFLOWING, dtype=np.float32))
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    new = [
        helper.make_node("Mul", ["", factor], ["large"]),
        helper.make_node("Cast", ["large"], ["halved"], to=half),
        helper.make_node("Cast", ["halved"], ["wide"], to=single),
        helper.make_node("Div", ["wide", factor], [""]),
    ]
    insert_after(graph, feed_forward_out(graph), new)


def overflow_model(model: GPT, patch) -> None:
    class Overflow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * OVERFLOWING).half().float() / OVERFLOWING

    model.blocks[1].feed_forward.dropout = Overflow()


def forgotten_bias_graph(graph: onnx.GraphProto) -> None:
    """Add the output of a projection to the stream without its bias."""
    node = next(n for n in graph.node if "blocks.1.attention.proj.bias" in n.input)
    node.op_type = "Identity"
    node.input.remove("blocks.1.attention.proj.bias")


def forgotten_bias_model(model: GPT, patch) -> None:
    with torch.no_grad():
        model.blocks[1].attention.proj.bias.zero_()


def interleaved_graph(graph: onnx.GraphProto) -> None:
    """Rotate neighbouring values together, not values that are half a head apart."""
    for node in nodes(graph, "GroupQueryAttention"):
        node.attribute.append(helper.make_attribute("rotary_interleaved", 1))


def interleaved_model(model: GPT, patch) -> None:
    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        first, second = x[..., 0::2], x[..., 1::2]
        turned = [first * cos - second * sin, second * cos + first * sin]
        return torch.stack(turned, dim=-1).flatten(-2)

    patch.setattr("edgegpt.model.attention.rotate", rotate)


def unrotated_graph(graph: onnx.GraphProto) -> None:
    last = nodes(graph, "GroupQueryAttention")[-1]
    attribute(last, "do_rotary").i = 0
    del last.input[7:]  # cos and sin


def unrotated_model(model: GPT, patch) -> None:
    attention = model.blocks[-1].attention
    forward = attention.forward
    patch.setattr(attention, "forward", lambda x, _, *rest: forward(x, None, *rest))


def residual_graph(graph: onnx.GraphProto) -> None:
    """Remove the output of block 1's feed-forward layer from the residual stream."""
    inner = feed_forward_out(graph).output[0]
    joined = next(n for n in graph.node if n.op_type == "Add" and inner in n.input)
    (stream,) = [name for name in joined.input if name != inner]
    joined.op_type = "Identity"
    del joined.input[:]
    joined.input.append(stream)


def residual_model(model: GPT, patch) -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    model.blocks[1].feed_forward.dropout = Nothing()


GRAPH_FAULTS: dict[str, GraphFault] = {
    "attention scale wrong by 1%": GraphFault(scale_graph, scale_model),
    "mask off by one: a token does not see itself": GraphFault(blind_graph, blind_model),
    "mask off by one: a token sees the next": GraphFault(ahead_graph, ahead_model),
    "LayerNorm eps 1e-3": GraphFault(epsilon_graph, epsilon_model),
    "ReLU replaced by GELU": GraphFault(gelu_graph, set_activation("gelu")),
    "tanh-GELU for erf-GELU": GraphFault(tanh_graph, set_activation("gelu_tanh"), "gelu"),
    "final norm dropped": GraphFault(norm_graph, norm_model),
    "dropout left on": GraphFault(dropout_graph, dropout_model),
    "float16 overflow in one layer": GraphFault(overflow_graph, overflow_model),
    "a residual connection lost": GraphFault(residual_graph, residual_model),
    "legacy: mask off by one: a token does not see itself": GraphFault(
        blind_graph, blind_model, lowering="legacy"
    ),
    "legacy: mask off by one: a token sees the next": GraphFault(
        ahead_graph, ahead_model, lowering="legacy"
    ),
    "legacy: LayerNorm eps 1e-3": GraphFault(epsilon_graph, epsilon_model, lowering="legacy"),
    "ort: attention scale wrong by 1%": GraphFault(scale_graph, scale_model, lowering="ort"),
    "ort: LayerNorm eps 1e-3": GraphFault(epsilon_graph, epsilon_model, lowering="ort"),
    "ort: ReLU replaced by GELU": GraphFault(gelu_graph, set_activation("gelu"), lowering="ort"),
    "ort: tanh-GELU for erf-GELU": GraphFault(
        tanh_graph, set_activation("gelu_tanh"), "gelu", lowering="ort"
    ),
    "ort: the bias of a projection is forgotten": GraphFault(
        forgotten_bias_graph, forgotten_bias_model, lowering="ort"
    ),
    "ort: rotary pairs interleaved": GraphFault(
        interleaved_graph, interleaved_model, "rotary", lowering="ort"
    ),
    "ort: rotation left out of one layer": GraphFault(
        unrotated_graph, unrotated_model, "rotary", lowering="ort"
    ),
}
