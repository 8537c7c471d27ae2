"""Encoders, and decoders that attend to sources, read and built with TensorRT for RTX."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from seq2seq_models import STACK, VARIANTS, VOCABULARY, seq2seq

from edgegpt.export.graph import build_graph, describe
from edgegpt.export.half_precision import in_half_precision
from edgegpt.export.lowerings import STANDARD
from edgegpt.export.tracing import trace_decoder, trace_encoder
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.derived_weights import graph_with_weights
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.bundle.vocabulary import Part
from edgegpt.runtime.engines.tensorrt import builder as builder_module
from edgegpt.runtime.engines.tensorrt.builder import build_plan
from edgegpt.runtime.engines.tensorrt.flavour import Flavour, import_flavour
from edgegpt.runtime.engines.tensorrt.log import Log
from edgegpt.runtime.engines.tensorrt.network import parse_network
from edgegpt.runtime.engines.tensorrt.profiles import Limits, Profile, profiles
from edgegpt.runtime.engines.tensorrt.target import Target
from edgegpt.runtime.errors import EngineError, InvalidInputError

LIMITS, TARGET = Limits(4, 16, 12), Target("8.9")
TRACE = {"encoder": trace_encoder, "decoder": trace_decoder}
ENCODER_LAYERS, DECODER_LAYERS = 1, 2
HEADS, ANY = STACK["n_head"], -1
VENDORS = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int64": "INT64"}
CASES = [*((name, "float32") for name in VARIANTS), ("t5", "float16"), ("t5", "bfloat16")]


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: nothing is built")
    return import_flavour("tensorrt-rtx")


@cache
def standard_graph(part: str, variant: str, precision: str) -> ir.Model:
    model = seq2seq(VARIANTS[variant] | {"n_layer": ENCODER_LAYERS}, decoder_layers=DECODER_LAYERS)
    if precision != "float32":
        model = in_half_precision(model, precision)
    return build_graph(TRACE[part](model), STANDARD)


def exported(
    folder: Path, bundle: Path, part: Part, variant: str, precision: str = "float32"
) -> tuple[Bundle, Graph]:
    """Return a bundle with the standard graph of a part of a model, and the graph."""
    built = standard_graph(part, variant, precision)
    graph = describe(built, STANDARD, part)
    ir.save(built, folder / graph.file)
    manifest = Bundle.open(bundle).manifest
    files = manifest.files | {graph.file: manifest.files["decoder.standard.onnx"]}
    return Bundle(folder, replace(manifest, graphs=[graph], files=files)), graph


class Network:
    """A network that TensorRT read, and which of its values depend on which."""

    def __init__(self, flavour: Flavour, bundle: Bundle, graph: Graph) -> None:
        log = Log(flavour)
        self.builder = flavour.module.Builder(log.logger)  # the network lives as long as it does
        with graph_with_weights(bundle, graph) as path:
            network = parse_network(flavour, log, self.builder, path, graph, LIMITS.max_context)
        self.inputs = [network.get_input(index) for index in range(network.num_inputs)]
        self.outputs = [network.get_output(index) for index in range(network.num_outputs)]
        self.layers = [network.get_layer(index) for index in range(network.num_layers)]
        self.kinds = flavour.module.LayerType
        self.makers = {name: layer for layer in self.layers for name in outputs_of(layer)}

    def of_kind(self, kind: str) -> list[Any]:
        return [layer for layer in self.layers if layer.type == getattr(self.kinds, kind)]

    def needed_for(self, name: str) -> set[str]:
        """Return the inputs whose values, and not just shapes, decide a value."""
        found, left, seen = set(), [name], set()
        while left:
            name = left.pop()
            layer = self.makers.get(name)
            if name in seen:
                continue
            seen.add(name)
            if layer is None:
                found.add(name)
            elif layer.type != self.kinds.SHAPE:
                left += inputs_of(layer)
        return found


def inputs_of(layer: Any) -> list[str]:
    tensors = [layer.get_input(index) for index in range(layer.num_inputs)]
    return [tensor.name for tensor in tensors if tensor is not None]


def outputs_of(layer: Any) -> list[str]:
    return [layer.get_output(index).name for index in range(layer.num_outputs)]


def expected_ports(part: str, precision: str, width: int) -> dict[str, tuple[str, tuple]]:
    """Return what a network takes and gives: the names, types and shapes."""
    names = [f"{kind}.{layer}" for layer in range(DECODER_LAYERS) for kind in "kv"]
    sources = {f"source_{name}": (precision, (ANY, HEADS, ANY, width)) for name in names}
    if part == "encoder":
        return {"source_ids": ("int64", (ANY, ANY)), "source_len": ("int64", (ANY,)), **sources}
    cache = precision, (ANY, HEADS, LIMITS.max_context, width)
    return {
        "ids": ("int64", (ANY, ANY)),
        "past_len": ("int64", (ANY,)),
        "logit_positions": ("int64", (ANY, ANY)),
        "source_len": ("int64", (ANY,)),
        "logits": ("float32", (ANY, ANY, VOCABULARY)),
        **sources,
        **{f"{when}_{name}": cache for when in ("past", "present") for name in names},
    }


@pytest.mark.parametrize(("variant", "precision"), CASES)
@pytest.mark.parametrize("part", TRACE)
def test_both_parts_of_every_kind_of_model_are_read_and_built(
    flavour: Flavour, tmp_path: Path, small_bundle: Path, part: Part, variant: str, precision: str
) -> None:
    bundle, graph = exported(tmp_path, small_bundle, part, variant, precision)
    network = Network(flavour, bundle, graph)
    width = VARIANTS[variant].get("head_dim", STACK["n_embd"] // HEADS)
    found = {port.name: (port.dtype, port.shape) for port in network.inputs + network.outputs}
    assert found == {
        name: (getattr(flavour.module.DataType, VENDORS[dtype]), shape)
        for name, (dtype, shape) in expected_ports(part, precision, width).items()
    }
    CHECKS[part](network)
    assert len(build_plan(flavour, bundle, graph, LIMITS, TARGET)) > 100_000


def check_encoder(network: Network) -> None:
    """All that an encoder gives depends on the lengths, by the masks of its attentions."""
    attentions = network.of_kind("ATTENTION_INPUT")
    assert [network.needed_for(mask_of(layer)) for layer in attentions] == [
        {"source_len"}
    ] * ENCODER_LAYERS
    for port in network.outputs:
        assert network.needed_for(port.name) == {"source_ids", "source_len"}


def check_decoder(network: Network) -> None:
    """Each layer has a cache in place, and two attentions with the masks of what they see."""
    caches = {
        (inputs_of(layer)[0], *outputs_of(layer)) for layer in network.of_kind("KV_CACHE_UPDATE")
    }
    names = [f"{kind}.{layer}" for layer in range(DECODER_LAYERS) for kind in "kv"]
    assert caches == {(f"past_{name}", f"present_{name}") for name in names}
    seen = {
        inputs_of(layer)[2]: network.needed_for(mask_of(layer))
        for layer in network.of_kind("ATTENTION_INPUT")
    }
    for layer in range(DECODER_LAYERS):
        assert seen.pop(f"present_v.{layer}") == {"past_len"}
        assert seen.pop(f"source_v.{layer}") == {"source_len"}
    assert not seen
    assert network.needed_for("logits") == {port.name for port in network.inputs}


CHECKS = {"encoder": check_encoder, "decoder": check_decoder}


def mask_of(layer: Any) -> str:
    return inputs_of(layer)[3]


@pytest.mark.parametrize(("rows", "fits"), [(6, True), (5, False)])
@pytest.mark.parametrize("variant", ["paper", "t5"])
def test_a_source_may_have_several_rows_and_all_have_as_many(
    flavour: Flavour,
    tmp_path: Path,
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    rows: int,
    fits: bool,
) -> None:
    sizes = {"batch": rows, "sources": 2, "source": 9, "context": LIMITS.max_context}
    sizes |= {"new_tokens": 3, "logit_positions": 2}

    def only(graph: Graph, _: Limits) -> tuple[Profile, ...]:
        return (Profile("only", {port.name: (port.sized(sizes),) * 3 for port in graph.inputs}),)

    monkeypatch.setattr(builder_module, "profiles", only)
    bundle, graph = exported(tmp_path, small_bundle, "decoder", variant)
    if fits:
        assert len(build_plan(flavour, bundle, graph, LIMITS, TARGET)) > 100_000
        return
    with pytest.raises(EngineError, match=r"Reshaping \[5,3,\d+\] to \[2,-1"):
        build_plan(flavour, bundle, graph, LIMITS, TARGET)


def test_profiles_take_sources_of_all_numbers_and_lengths(
    tmp_path: Path, small_bundle: Path
) -> None:
    _, encoder = exported(tmp_path, small_bundle, "encoder", "paper")
    _, decoder = exported(tmp_path, small_bundle, "decoder", "paper")
    (encode,) = profiles(encoder, LIMITS)
    assert encode == Profile(
        "encode",
        {"source_ids": ((1, 1), (1, 6), (4, 12)), "source_len": ((1,), (1,), (4,))},
    )
    for profile, longest in zip(profiles(decoder, LIMITS), (16, 1), strict=True):
        assert profile.shapes["ids"] == ((1, 1), (1, max(1, longest // 2)), (4, longest))
        assert profile.shapes["source_len"] == ((1,), (1,), (4,))
        assert profile.shapes["source_k.0"] == ((1, 4, 1, 8), (1, 4, 6, 8), (4, 4, 12, 8))
    with pytest.raises(InvalidInputError, match=r"source_k\.0 would have more than"):
        profiles(encoder, replace(LIMITS, max_source=2**26))


def test_an_engine_takes_sources_as_long_as_the_encoder_does(small_bundle: Path) -> None:
    info = Bundle.open(small_bundle).manifest.model_info
    assert Limits.of(info, None, None) == Limits(4, info.block_size)
    longer = replace(info, encoder=replace(info, block_size=77))
    assert Limits.of(longer, 2, 8) == Limits(2, 8, 77)
