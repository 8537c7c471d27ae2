"""If the CUDA provider does not really load, the error names what is missing."""

from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from edgegpt.cli import main
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort import cuda_provider
from edgegpt.runtime.engines.ort.cuda_provider import (
    check_placement,
    replays_rightly,
    try_provider,
)
from edgegpt.runtime.engines.support import obstacle
from edgegpt.runtime.errors import EdgeGPTWarning, EngineError, InvalidInputError
from edgegpt.runtime.proof.auto import settle

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
INSTALL = r'pip install "edgegpt-toolkit\[cuda\]"'
Node = namedtuple("Node", "op_type")


class Session:
    def __init__(self, providers, nodes=()):
        self.providers, self.nodes = providers, nodes

    def get_providers(self):
        return self.providers

    def run(self, names, inputs):
        self.ran = sorted(inputs)

    def get_provider_graph_assignment_info(self):
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda op=op: [Node(op)])
            for name, op in self.nodes
        ]


class Runtime:
    """A fake onnxruntime-gpu on a machine that lacks what the test says."""

    __version__, cuda_version, __file__ = "1.31.1", "13.0", "/nowhere/onnxruntime/__init__.py"
    SessionOptions = SimpleNamespace

    def __init__(self, loaded=(CUDA, CPU), available=(CUDA, CPU), printed="", error=None):
        self.loaded, self.available, self.printed, self.error = loaded, available, printed, error
        self.asked = []

    def get_available_providers(self):
        return list(self.available)

    def preload_dlls(self):
        print(self.printed)

    def set_default_logger_severity(self, level):
        self.level = level

    def InferenceSession(self, model, options, providers, enable_fallback):  # noqa: N802
        assert enable_fallback == 0
        self.asked = providers
        if self.error:
            raise self.error
        self.session = Session(list(self.loaded))
        return self.session


@pytest.fixture
def gpu_wheel(monkeypatch):
    """Pretend that onnxruntime-gpu is installed; return a function that sets its module."""

    def install(runtime):
        monkeypatch.setattr(
            "edgegpt.runtime.engines.choice.installed_distributions", lambda: ["onnxruntime-gpu"]
        )
        monkeypatch.setattr("edgegpt.runtime.engines.choice.import_onnxruntime", lambda _: runtime)

    return install


def test_a_provider_that_loads_is_taken_with_tf32_off():
    runtime = Runtime()
    try_provider(runtime)
    assert runtime.session.ran == ["x"]
    assert runtime.level == 3  # errors only
    ((name, options),) = runtime.asked
    assert (name, options["use_tf32"]) == (CUDA, "0")
    assert cuda_provider.provider(tf32=True)[1]["use_tf32"] == "1"


def test_the_cpu_build_says_what_to_install():
    with pytest.raises(
        EngineError, match=f"without CUDA: pip uninstall onnxruntime, then {INSTALL}"
    ):
        try_provider(Runtime(available=[CPU]))


@pytest.mark.parametrize(
    ("said", "library"),
    [
        ("libcublasLt.so.13: cannot open shared object file: No such file", "libcublasLt.so.13"),
        ("Failed to load cudnn64_9.dll: Could not find module", "cudnn64_9.dll"),
    ],
)
def test_a_missing_library_is_named_with_the_line_that_brings_it(said, library, capsys):
    with pytest.raises(
        EngineError, match=rf"{library} is missing: {INSTALL} brings it .*CUDA 13.0"
    ):
        try_provider(Runtime(loaded=[CPU], printed=said))
    assert capsys.readouterr().out == ""  # stdout is for results


def test_the_loader_is_asked_which_library_is_missing(monkeypatch, tmp_path):
    folder = tmp_path / "capi"
    folder.mkdir()
    (folder / "libonnxruntime_providers_cuda.so").write_bytes(b"")

    def load(path, mode):
        raise OSError("libcurand.so.10: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(cuda_provider.ctypes, "CDLL", load)
    runtime = Runtime()
    runtime.__file__ = str(tmp_path / "__init__.py")
    with pytest.raises(EngineError, match=r"libcurand\.so\.10 is missing"):
        try_provider(runtime)
    assert runtime.asked == []


def test_a_missing_driver_is_not_looked_for_in_pip():
    said = "libcuda.so.1: cannot open shared object file"
    with pytest.raises(
        EngineError, match=r"libcuda\.so\.1 is missing: it comes with NVIDIA's driver"
    ):
        try_provider(Runtime(loaded=[CPU], printed=said))


def test_a_machine_without_a_device_is_an_engine_error():
    error = RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
    with pytest.raises(EngineError, match=r"CUDA does not work on this machine: .*no CUDA-cap"):
        try_provider(Runtime(error=error))


def test_a_library_that_only_a_run_misses_is_found_before_the_first_token(monkeypatch):
    def run(session, names, inputs):
        raise RuntimeError("cuDNN is unavailable: dlopen failed for libcudnn.so.9")

    monkeypatch.setattr(Session, "run", run)
    with pytest.raises(EngineError, match=r"does not work on this machine: .*libcudnn\.so\.9"):
        try_provider(Runtime())


def test_a_provider_that_silently_gave_way_is_an_error_even_if_nobody_says_why():
    with pytest.raises(EngineError, match="a library of CUDA or cuDNN is missing"):
        try_provider(Runtime(loaded=[CPU]))


def test_nodes_on_the_cpu_are_refused_unless_they_only_compute_shapes(small_bundle):
    graph = Bundle.open(small_bundle).manifest.graphs[0]
    shapes = [(CUDA, "MatMul"), (CUDA, "Shape"), (CPU, "Squeeze")]
    check_placement(Session([CUDA, CPU], shapes), graph)
    with pytest.raises(EngineError, match=r"would run GroupQueryAttention of decoder\.ort on the"):
        check_placement(Session([CUDA, CPU], [*shapes, (CPU, "GroupQueryAttention")]), graph)
    with pytest.raises(EngineError, match=r"decoder\.ort was not loaded on CUDA"):
        check_placement(Session([CPU], []), graph)


def test_a_float32_bundle_runs_its_standard_graph_on_cuda(small_bundle):
    bundle = Bundle.open(small_bundle)
    assert local_lowerings(bundle, "cuda") == ["standard"]
    assert local_lowerings(bundle, "cpu") == ["ort", "standard", "legacy"]


@pytest.mark.parametrize(
    ("dtype", "runs"), [("float32", False), ("float16", True), ("bfloat16", True)]
)
def test_fused_attention_runs_on_cuda_with_a_cache_of_two_bytes(small_bundle, dtype, runs):
    graph = Bundle.open(small_bundle).manifest.graphs[0]
    assert (obstacle("cuda", None, in_precision(graph, dtype), dtype) is None) is runs


def in_precision(graph: Graph, dtype: str) -> Graph:
    """Return the graph with a cache of another precision."""
    inputs = [replace(port, dtype=dtype) if port.role == "cache" else port for port in graph.inputs]
    return replace(graph, inputs=inputs)


@pytest.mark.parametrize(
    ("version", "lowerings"),
    [("1.25.1", ["ort"]), ("1.28.0", ["ort", "standard"]), ("1.23.2", [])],
)
def test_an_older_provider_runs_what_it_has_operators_for(
    small_bundle, gpu_wheel, version, lowerings
):
    runtime = Runtime()
    runtime.__version__ = version
    gpu_wheel(runtime)
    manifest = Bundle.open(small_bundle).manifest
    graphs = [in_precision(graph, "float16") for graph in manifest.graphs]
    bundle = SimpleNamespace(manifest=replace(manifest, graphs=graphs, precision="float16"))
    assert local_lowerings(bundle, "cuda") == lowerings


@pytest.mark.parametrize(("lowering", "rightly"), [("ort", {"1.31.1"}), ("standard", {"1.31.1"})])
def test_older_versions_replay_what_they_should_not(small_bundle, lowering, rightly):
    graphs = Bundle.open(small_bundle).manifest.graphs
    graph = next(graph for graph in graphs if graph.lowering == lowering)
    versions = ("1.25.1", "1.29.0", "1.30.0", "1.31.1")
    runtimes = [SimpleNamespace(__version__=version) for version in versions]
    assert {one.__version__ for one in runtimes if replays_rightly(one, graph)} == rightly


def test_auto_is_cuda_only_where_its_package_is_installed_and_works(small_bundle, gpu_wheel):
    bundle = Bundle.open(small_bundle)
    assert settle(bundle).options.backend == "cpu"
    gpu_wheel(Runtime())
    assert settle(bundle).options.backend == "cuda"
    gpu_wheel(Runtime(loaded=[CPU], printed="libcufft.so.12: cannot open shared object file"))
    with pytest.warns(EdgeGPTWarning, match=r"the CPU is used: .*libcufft\.so\.12 is missing"):
        assert settle(bundle).options.backend == "cpu"


def test_tf32_is_refused_where_there_is_none(small_bundle):
    with pytest.raises(InvalidInputError, match="the backend cpu has no TF32"):
        open_engine(Bundle.open(small_bundle), EngineOptions("cpu", tf32=True))


@pytest.mark.parametrize("command", ["generate", "verify", "bench"])
def test_every_command_says_why_cuda_cannot_be_used_here(
    small_bundle, command, monkeypatch, capsys
):
    monkeypatch.setattr(
        "edgegpt.runtime.engines.ort.cuda.import_onnxruntime", lambda _: Runtime(available=[CPU])
    )
    arguments = [command, str(small_bundle), "--backend", "cuda", "--tf32", "--no-cuda-graph"]
    prompt = ["--prompt", "The wind"] if command == "generate" else []
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *prompt, "--json"])
    assert ended.value.code == 1
    assert "is a build without CUDA" in capsys.readouterr().err


def test_the_hand_written_graph_is_what_onnx_reads_and_runs():
    import onnx
    import onnxruntime

    data = cuda_provider._trial_model()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["ReduceL1"]
    session = onnxruntime.InferenceSession(data, providers=[CPU])
    (found,) = session.run(None, {"x": np.array([[2.0, -3.0]], dtype=np.float32)})
    assert found.tolist() == [[5.0]]
