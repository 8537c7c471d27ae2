"""Engines built with TensorRT for RTX, which needs no GPU, and graphs that must be refused."""

import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from small_models import random_model, small_config

from edgegpt.export.graph import build_graph, describe
from edgegpt.export.lowerings import STANDARD
from edgegpt.export.tracing import trace
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.derived_weights import graph_with_weights
from edgegpt.runtime.bundle.manifest import Graph, Port
from edgegpt.runtime.bundle.onnx_file import Node
from edgegpt.runtime.engines.tensorrt import network as network_module
from edgegpt.runtime.engines.tensorrt.builder import build_plan, graph_for
from edgegpt.runtime.engines.tensorrt.flavour import Flavour, import_flavour
from edgegpt.runtime.engines.tensorrt.log import Log
from edgegpt.runtime.engines.tensorrt.network import parse_network
from edgegpt.runtime.engines.tensorrt.profiles import Limits
from edgegpt.runtime.engines.tensorrt.target import Target
from edgegpt.runtime.errors import BundleError, EngineError

LIMITS, TARGET = Limits(2, 16), Target("8.9")
FLOATS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: nothing is built")
    return import_flavour("tensorrt-rtx")


def parsed(flavour: Flavour, bundle: Bundle, graph: Graph) -> object:
    log = Log(flavour)
    builder = flavour.module.Builder(log.logger)
    with graph_with_weights(bundle, graph) as path:
        return parse_network(flavour, log, builder, path, graph, LIMITS.max_context)


def attention_bundle(
    bundle: Bundle, kind: str = "mask", dtype: str = "float32"
) -> tuple[Bundle, Graph]:
    """Replace a bundle's standard graph by a layer of cached attention."""
    cache, fresh = ["batch", 2, "context", 16], ["batch", 2, "new_tokens", 16]
    ports = {
        "x": (dtype, fresh),
        "past_len": ("int64", ["batch"]),
        "total": ("int64", ["batch"]),
        "mask": ("bool", ["batch", 1, "new_tokens", "context"]),
        "past_k": (dtype, cache),
        "past_v": (dtype, cache),
    }
    extra = {
        "mask": (["mask"], {}),
        "nonpad and causal": (["", "", "", "total"], {"is_causal": 1}),
        "mask and nonpad": (["mask", "", "", "total"], {}),
        "no mask": ([], {}),
        "causal only": ([], {"is_causal": 1}),
        "mask and causal": (["mask"], {"is_causal": 1}),
        "past as input": (["mask", "past_k", "past_v"], {}),
    }
    inputs, attributes = extra[kind]
    nodes = [
        helper.make_node("TensorScatter", ["past_k", "x", "past_len"], ["present_k"], axis=-2),
        helper.make_node("TensorScatter", ["past_v", "x", "past_len"], ["present_v"], axis=-2),
        helper.make_node(
            "Attention", ["x", "present_k", "present_v", *inputs], ["out"], **attributes
        ),
    ]
    for number, node in enumerate(nodes):
        node.name = f"node_{number}"
    used = {name for node in nodes for name in node.input}
    wanted = {name: port for name, port in ports.items() if name in used}
    types = {**FLOATS, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    outputs = {"out": (dtype, fresh), "present_k": (dtype, cache), "present_v": (dtype, cache)}
    graph = helper.make_graph(
        nodes,
        "attention",
        *(
            [helper.make_tensor_value_info(n, types[t], shape) for n, (t, shape) in side.items()]
            for side in (wanted, outputs)
        ),
    )
    opset = [helper.make_opsetid("", 24)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (bundle.folder / "decoder.standard.onnx").write_bytes(model.SerializeToString())
    described = Graph(
        name="decoder.standard",
        file="decoder.standard.onnx",
        part="decoder",
        lowering="standard",
        opset=24,
        inputs=[Port(n, _role(n), t, s, _present(n)) for n, (t, s) in wanted.items()],
        outputs=[Port(n, "", t, s) for n, (t, s) in outputs.items()],
    )
    return bundle, described


def _role(name: str) -> str:
    return "cache" if name.startswith("past_") and name != "past_len" else name


def _present(name: str) -> str | None:
    return name.replace("past", "present") if _role(name) == "cache" else None


@pytest.fixture
def damaged(bundle_copy: Path) -> Bundle:
    """A bundle whose files a test may replace after opening it."""
    return Bundle.open(bundle_copy)


LLAMA = {"norm": "rmsnorm", "position": "rope", "activation": "silu", "gated": True}
KINDS = [{"window": 5, "rotary": [1.0, 0.1]}, {"rotary": [0.3]}]
SHAPES = {
    "char": {},
    "llama": LLAMA | {"n_kv_head": 1},
    "windows, parts of heads, norms of heads": LLAMA
    | {"layer_kinds": KINDS, "layer_kind": [0, 1], "qk_norm": "head", "norm_placement": "output"},
    "caps and scales": LLAMA
    | {
        "attention_softcap": 5.0,
        "logit_softcap": 9.0,
        "embedding_scale": 4.0,
        "residual_scale": 0.5,
        "norm_placement": "sandwich",
    },
    "parallel": {"parallel": True, "activation": "relu2", "qk_norm": "full", "position": "none"},
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_kind_of_model_is_read_and_built(
    flavour: Flavour, tmp_path: Path, shape: str, small_bundle: Path
) -> None:
    import onnx_ir as ir

    if not SHAPES[shape]:
        bundle = Bundle.open(small_bundle)
        graph = graph_for(flavour, bundle)
    else:
        model = build_graph(trace(random_model(small_config(**SHAPES[shape]))), STANDARD)
        graph = describe(model, STANDARD, "decoder")
        ir.save(model, tmp_path / graph.file)
        manifest = replace(Bundle.open(small_bundle).manifest, graphs=[graph])
        bundle = Bundle(tmp_path, manifest)
    plan = build_plan(flavour, bundle, graph, LIMITS, TARGET)
    assert len(plan) > 100_000


def test_a_build_reports_its_phases_in_the_thread_that_asked_for_it(
    flavour: Flavour, small_bundle: Path
) -> None:
    bundle, told = Bundle.open(small_bundle), []
    graph = graph_for(flavour, bundle)

    def progress(*report: object) -> None:
        told.append((threading.current_thread(), *report))

    build_plan(flavour, bundle, graph, LIMITS, TARGET, progress)
    assert {thread for thread, *_ in told} == {threading.current_thread()}
    assert told[0][1:] == ("building decoder.standard", 0, 0)
    assert told[-1][1].startswith("building decoder.standard: ")
    assert 0 <= told[-1][2] <= told[-1][3] > 0


def test_what_a_caller_raises_in_its_callback_ends_the_build(
    flavour: Flavour, small_bundle: Path
) -> None:
    bundle, before = Bundle.open(small_bundle), threading.active_count()

    def progress(what: str, done: int, total: int) -> None:
        if total:
            raise RuntimeError("the window was closed")

    with pytest.raises(RuntimeError, match="the window was closed"):
        build_plan(flavour, bundle, graph_for(flavour, bundle), LIMITS, TARGET, progress)
    assert threading.active_count() == before


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_over_a_cache_is_read_and_built_in_every_precision(
    flavour: Flavour, damaged: Bundle, dtype: str
) -> None:
    bundle, graph = attention_bundle(damaged, dtype=dtype)
    network = parsed(flavour, bundle, graph)
    layers = [network.get_layer(index).type for index in range(network.num_layers)]
    assert layers.count(flavour.module.LayerType.KV_CACHE_UPDATE) == 2
    assert layers.count(flavour.module.LayerType.ATTENTION_INPUT) == 1
    assert len(build_plan(flavour, bundle, graph, LIMITS, TARGET)) > 10_000


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nonpad and causal", "nonpad_kv_seqlen"),
        ("mask and nonpad", "nonpad_kv_seqlen"),
        ("past as input", "TensorRT drops"),
        ("no mask", "has no mask"),
        ("causal only", "has no mask"),
        ("mask and causal", "cannot read"),
    ],
)
def test_attention_that_would_be_computed_wrongly_is_refused(
    flavour: Flavour, damaged: Bundle, kind: str, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        parsed(flavour, *attention_bundle(damaged, kind))


def test_an_attention_that_lost_its_mask_is_refused(
    flavour: Flavour, damaged: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "_check_nodes", lambda nodes, graph: None)
    with pytest.raises(EngineError, match="lost the mask"):
        parsed(flavour, *attention_bundle(damaged, "nonpad and causal"))


def test_a_node_that_became_no_layer_is_named(
    flavour: Flavour, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(small_bundle)
    read = network_module.graph_nodes
    more = [Node("Mul", "", "node_lost", ["a", "b"], ["c"])]
    monkeypatch.setattr(network_module, "graph_nodes", lambda model: read(model) + more)
    with pytest.raises(EngineError, match=r"dropped the node node_lost \(Mul\)"):
        parsed(flavour, bundle, graph_for(flavour, bundle))


@pytest.mark.parametrize("change", ["dtype", "shape", "name"])
def test_a_network_with_other_ports_than_the_manifest_is_refused(
    flavour: Flavour, small_bundle: Path, change: str
) -> None:
    bundle = Bundle.open(small_bundle)
    graph = graph_for(flavour, bundle)
    changed = {"dtype": "float16", "shape": ["batch", 2, "context", 8], "name": "past_x.0"}
    inputs = [
        replace(port, **{change: changed[change]}) if port.name == "past_k.0" else port
        for port in graph.inputs
    ]
    with pytest.raises(EngineError, match=r"past_[kx]\.0"):
        parsed(flavour, bundle, replace(graph, inputs=inputs))


def test_operators_of_onnx_runtime_are_refused(flavour: Flavour, small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    with pytest.raises(EngineError, match=r"com\.microsoft\.\w+, which is no standard ONNX"):
        parsed(flavour, bundle, bundle.manifest.graphs[0])


def test_a_graph_that_is_no_onnx_is_refused(flavour: Flavour, damaged: Bundle) -> None:
    (damaged.folder / "decoder.standard.onnx").write_bytes(b"\x3a\xff\xff\xff\xff\xff\x7f")
    with pytest.raises(BundleError, match="not an ONNX file"):
        parsed(flavour, damaged, graph_for(flavour, damaged))


def test_weights_that_are_missing_are_an_engine_error(flavour: Flavour, damaged: Bundle) -> None:
    (damaged.folder / "weights.safetensors").unlink()
    with pytest.raises(EngineError, match=r"cannot read decoder\.standard\.onnx"):
        parsed(flavour, damaged, graph_for(flavour, damaged))


def command(bundle: Path, out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "edgegpt", "build", str(bundle), "--backend", "tensorrt-rtx"]
    return [*start, "--compute-capability", "8.9", "--out", str(out), *more]


def test_the_command_builds_once_and_describes_what_it_built(
    flavour: Flavour, small_bundle: Path, tmp_path: Path
) -> None:
    build = command(small_bundle, tmp_path, "--max-batch", "2", "--json")
    first, second = (
        json.loads(subprocess.run(build, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    )
    assert first["seconds"] > 0
    assert second["seconds"] is None
    assert first["path"] == second["path"]
    assert Path(first["path"]).stat().st_size == first["size"]
    assert (first["max_batch"], first["max_context"], first["gpu"]) == (2, 32, "")


# A build that says when it has come to a moment, and waits there until it is cancelled.
BEFORE = """
build = builder._build
def waiting(*arguments):
    print("ready", flush=True)
    arguments[-1].cancelled.wait()
    return build(*arguments)
builder._build = waiting
"""
DURING = """
finished = monitor.BuildMonitor.finished
def waiting(self, *arguments):
    print("ready", flush=True)
    self.cancelled.wait()
    finished(self, *arguments)
monitor.BuildMonitor.finished = waiting
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [BEFORE, DURING], ids=["before", "during"])
def test_ctrl_c_and_termination_end_a_build_and_leave_no_file(
    flavour: Flavour, tmp_path: Path, small_bundle: Path, number: signal.Signals, moment: str
) -> None:
    script = (
        "import signal, sys; from edgegpt.runtime.engines.tensorrt import builder, monitor\n"
        # A shell that runs the tests in the background makes them ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{moment}\n"
        "from edgegpt.cli import main; main(sys.argv[1:])"
    )
    arguments = command(small_bundle, tmp_path / "out")[3:]
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    assert not (tmp_path / "out").exists()
