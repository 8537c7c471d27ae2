"""Which backend runs which lowering: every cell of the table, and all code that reads it."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from recorded_machine import RecordedMachine

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Graph, Quality, Quantization
from edgegpt.runtime.bundle.vocabulary import LOWERINGS, PARTS, PRECISIONS
from edgegpt.runtime.bundle.widening import with_caches
from edgegpt.runtime.doctor.diagnosis import diagnose
from edgegpt.runtime.doctor.fit import fit
from edgegpt.runtime.doctor.report import examine
from edgegpt.runtime.engines import choice
from edgegpt.runtime.engines import support as support_module
from edgegpt.runtime.engines.choice import local_lowerings, missing_engine, open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.support import (
    BACKENDS,
    ENGINES,
    SUPPORT,
    TENSORRT,
    fitting,
    lowerings_of,
    numbers,
    obstacle,
    oldest,
    serving,
)
from edgegpt.runtime.engines.tensorrt.builder import graph_for
from edgegpt.runtime.engines.tensorrt.flavour import Flavour
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.proof.tolerances import TOLERANCES

FLOAT, INTEGER = ("float32", "float16", "bfloat16"), ("int8", "int4")
# (backend, lowering): the first version that runs it, the first later one that does not, precisions
RUNS = {
    ("cpu", "ort"): ((1, 25), None, ("float32", "float16", *INTEGER)),
    ("cpu", "standard"): ((1, 25), None, ("float32", "float16", *INTEGER)),
    ("cpu", "legacy"): ((1, 14), None, ("float32", "float16", *INTEGER)),
    ("cuda", "ort"): ((1, 25), None, ("float16", "bfloat16", *INTEGER)),  # int8, int4: "half"
    ("cuda", "standard"): ((1, 28), None, (*FLOAT, *INTEGER)),
    ("tensorrt", "standard"): ((10, 15), None, FLOAT),
    ("tensorrt", "standard-qdq"): ((10, 15), None, INTEGER),
    ("tensorrt", "legacy"): ((10, 3), (10, 15), FLOAT),
    ("tensorrt-rtx", "standard"): ((1, 4), None, FLOAT),
    ("tensorrt-rtx", "standard-qdq"): ((1, 4), None, INTEGER),
}
NOWHERE = ((), None, ())
VERSIONS = {
    "cpu": ("1.13.1", "1.14.0", "1.23.2", "1.24.9", "1.25.0", "1.31.1"),
    "cuda": ("1.24.9", "1.25.0", "1.27.9", "1.28.0", "1.31.1"),
    "tensorrt": ("10.2.0", "10.3.0", "10.14.1.48", "10.15.0.9", "11.0.0"),
    "tensorrt-rtx": ("1.3.9", "1.4.0", "1.7.1"),
}
QUANTIZATION = Quantization("rtn", 4, 32, [], 32, [], Quality(1e-3, 0.5, 2.0, 7), 1.5, 0.1)
# The part that generates with a quantised bundle, where it is not "decoder".
GENERATES = {("cuda", "ort"): "half", ("cuda", "standard"): "exact", "standard-qdq": "exact"}


@pytest.fixture(scope="module")
def small(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


def in_precision(bundle: Bundle, precision: str, lowerings: tuple[str, ...] = LOWERINGS) -> Bundle:
    """Return a bundle with the graphs that the exporter writes for this precision."""
    decoder = bundle.manifest.graphs[0]
    caches = precision if precision in FLOAT else "float32"
    parts = {
        "ort": ("decoder",) if precision in FLOAT else ("decoder", "exact", "prefill", "half"),
        "standard": ("decoder",) if precision in FLOAT else ("exact",),
        "legacy": ("decoder",) if precision in FLOAT else (),
        "standard-qdq": () if precision in FLOAT else ("exact",),
    }
    graphs = [
        dataclasses.replace(
            with_caches(decoder, "float16" if part == "half" else caches),
            name=f"{part}.{lowering}",
            lowering=lowering,
            part=part,
        )
        for lowering in lowerings
        for part in parts[lowering]
    ]
    quantization = None if precision in FLOAT else QUANTIZATION
    manifest = dataclasses.replace(
        bundle.manifest, graphs=graphs, precision=precision, quantization=quantization
    )
    return Bundle(bundle.folder, manifest)


def graph_of(bundle: Bundle, lowering: str, part: str) -> Graph:
    """Return a graph of this lowering and part, with the bundle's caches."""
    own = [graph for graph in bundle.manifest.graphs if graph.part == part]
    graph = (own or bundle.manifest.graphs)[0]
    return dataclasses.replace(graph, name=f"{part}.{lowering}", lowering=lowering, part=part)


def runs(backend: str, version: str, lowering: str, precision: str) -> bool:
    since, until, precisions = RUNS.get((backend, lowering), NOWHERE)
    in_time = since <= numbers(version) and (until is None or numbers(version) < until)
    return in_time and precision in precisions


def expected(backend: str, version: str, precision: str) -> list[str]:
    """Return the lowerings that generate with a complete bundle, best first."""
    exported = {
        "float": ("ort", "standard", "legacy"),
        "cpu": ("ort",),  # the standard graph of a quantised bundle is an exact one
        "cuda": ("ort", "standard"),
        "tensorrt": ("standard-qdq",),
        "tensorrt-rtx": ("standard-qdq",),
    }
    names = exported["float" if precision in FLOAT else backend]
    return [name for name in names if runs(backend, version, name, precision)]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Return a function that pretends that a version of onnxruntime is installed."""

    def install(version: str) -> None:
        runtime = SimpleNamespace(__version__=version)
        monkeypatch.setattr(choice, "import_onnxruntime", lambda _: runtime)

    return install


CELLS = [
    (backend, version, precision)
    for backend in BACKENDS
    for version in VERSIONS[backend]
    for precision in PRECISIONS
]


def test_the_table_has_these_rows_and_no_others() -> None:
    assert set(SUPPORT) == set(RUNS)
    assert set(ENGINES) == set(BACKENDS)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(("backend", "version", "precision"), CELLS)
def test_a_cell_is_run_or_refused_with_a_reason(small, backend, version, precision, lowering):
    bundle = in_precision(small, precision)
    usual = "decoder" if precision in FLOAT else GENERATES.get((backend, lowering), "decoder")
    graph = graph_of(bundle, lowering, usual)
    reason = obstacle(backend, version, graph, precision)
    assert (reason is None) is runs(backend, version, lowering, precision)
    if reason is None:
        return
    assert "\n" not in reason
    assert graph.name in reason or f"backend {backend} does not run the lowering" in reason
    if precision in RUNS.get((backend, lowering), NOWHERE)[2]:  # only the version is wrong
        assert f"needs {ENGINES[backend]} " in reason
        assert f"; {version} is installed" in reason


@pytest.mark.parametrize(
    ("cell", "lowering", "reason"),
    [
        (("cpu", "1.24.9", "float32"), "ort", "needs onnxruntime 1.25 or later; 1.24.9 is"),
        (("cpu", "1.31.1", "bfloat16"), "ort", "runs no bfloat16 on a CPU, and decoder.ort is in"),
        (("cpu", "1.31.1", "int8"), "standard-qdq", "does not run the lowering standard-qdq"),
        (("cuda", "1.31.1", "float32"), "ort", "no kernel for the fused attention of decoder.ort"),
        (("cuda", "1.27.9", "float32"), "standard", "needs onnxruntime-gpu 1.28 or later; 1.27.9"),
        (("cuda", "1.31.1", "float32"), "legacy", "cuda does not run the lowering legacy"),
        (("tensorrt", "10.15.0", "float32"), "legacy", "needs tensorrt older than 10.15; 10.15.0"),
        (("tensorrt", "10.3.0", "int4"), "standard-qdq", "needs tensorrt 10.15 or later; 10.3.0"),
        (("tensorrt", "11.0.0", "int4"), "standard", "standard is in int4, which this backend doe"),
        (("tensorrt-rtx", "1.3.9", "int4"), "standard-qdq", "needs tensorrt_rtx 1.4 or later; 1.3"),
    ],
)
def test_the_reasons_say_what_it_is(small, cell, lowering, reason):
    backend, version, precision = cell
    graph = graph_of(in_precision(small, precision), lowering, "decoder")
    assert reason in str(obstacle(backend, version, graph, precision))


@pytest.mark.parametrize(("backend", "version", "precision"), CELLS)
def test_what_fits_is_the_best_graph_of_each_lowering(small, backend, version, precision):
    manifest = in_precision(small, precision).manifest
    graphs = fitting(manifest, backend, version)
    assert [graph.lowering for graph in graphs] == expected(backend, version, precision)
    for graph in graphs:
        usual = "decoder" if precision in FLOAT else GENERATES.get((backend, graph.lowering))
        assert graph.part == (usual or GENERATES.get(graph.lowering, "decoder"))


@pytest.mark.parametrize(("backend", "version", "precision"), CELLS)
def test_the_choice_the_builder_and_the_doctor_agree(small, installed, backend, version, precision):
    bundle = in_precision(small, precision)
    names = expected(backend, version, precision)
    machine = examine(RecordedMachine("jetson-thor-jetpack-7.2"))
    if backend in TENSORRT:
        flavour = Flavour(backend, SimpleNamespace(__version__=version))
        found = dataclasses.replace(machine.tensorrt[0], module=ENGINES[backend], version=version)
        machine = dataclasses.replace(machine, tensorrt=[found])
        if names:
            assert graph_for(flavour, bundle).lowering == names[0]
        elif numbers(version) >= oldest(backend):
            with pytest.raises(EngineError, match=r"quantised weights need tensorrt 10\.15"):
                graph_for(flavour, bundle)
    else:
        installed(version)
        runtime = dataclasses.replace(machine.onnxruntime, version=version)
        machine = dataclasses.replace(machine, onnxruntime=runtime)
        assert local_lowerings(bundle, backend) == names
        assert (missing_engine(bundle, backend) is None) is (bool(names) or backend == "cuda")
        if not names:
            with pytest.raises(EngineError, match=r"needs onnxruntime|runs no bfloat16|no kernel"):
                open_engine(bundle, EngineOptions(backend))
    (found,) = [
        one for one in fit(bundle, machine, diagnose(machine)).backends if one.backend == backend
    ]
    assert found.lowering == (names[0] if names else None)


@pytest.mark.parametrize("precision", INTEGER)
def test_exact_graphs_are_compared_with_on_every_lowering(small, installed, precision):
    installed("1.31.1")
    bundle = in_precision(small, precision)
    assert local_lowerings(bundle, "cpu", "exact") == ["ort", "standard"]
    assert local_lowerings(bundle, "cuda", "exact") == ["standard"]
    for flavour in TENSORRT:
        (graph,) = fitting(bundle.manifest, flavour, None, "exact")
        assert (graph.lowering, graph.part) == ("standard-qdq", "exact")


@pytest.mark.parametrize("precision", INTEGER)
def test_float16_activations_are_for_cuda_and_are_proved_on_cpus_too(small, installed, precision):
    installed("1.31.1")
    bundle = in_precision(small, precision)
    assert local_lowerings(bundle, "cpu", "half") == ["ort"]
    assert "half" not in {graph.part for graph in serving(bundle.manifest, "cpu")}
    assert [graph.part for graph in fitting(bundle.manifest, "cuda", "1.31.1")] == ["half", "exact"]


def test_a_layer_whose_cache_stays_in_float32_leaves_cuda_the_exact_graph(small):
    """float16 could not hold its values, and the fused attention has no float32 kernel there."""
    bundle = in_precision(small, "int8")
    graphs = [
        with_caches(graph, "float32") if graph.part == "half" else graph
        for graph in bundle.manifest.graphs
    ]
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs)
    assert [graph.name for graph in fitting(manifest, "cuda", "1.31.1")] == ["exact.standard"]


def test_a_prefill_graph_generates_nowhere(small):
    manifest = in_precision(small, "int8").manifest
    for backend in BACKENDS:
        assert "prefill" not in {graph.part for graph in serving(manifest, backend)}
    assert {graph.part for graph in serving(manifest, "cpu", "prefill")} == {"prefill"}


def test_a_graph_of_cuda_rounds_no_activations_so_that_a_decoder_comes_before_an_exact_one(small):
    bundle = in_precision(small, "float16")
    pair = [graph_of(bundle, "standard", part) for part in ("exact", "decoder")]
    manifest = dataclasses.replace(bundle.manifest, graphs=pair)
    assert [graph.part for graph in serving(manifest, "cuda")] == ["decoder", "exact"]
    assert [graph.part for graph in fitting(manifest, "cuda", None)] == ["decoder"]


def test_a_bundle_without_any_graph_for_a_backend_learns_what_that_runs(small, installed):
    installed("1.31.1")
    only = in_precision(small, "float32", ("legacy",))
    words = r"fits the backend cuda; it has: decoder\.legacy; the backend cuda runs ort, standard$"
    with pytest.raises(EngineError, match=words):
        open_engine(only, EngineOptions("cuda"))


def test_versions_are_asked_for_by_backend_and_precision() -> None:
    assert oldest("tensorrt") == (10, 3)
    assert oldest("tensorrt", "int4") == (10, 15)
    assert oldest("tensorrt-rtx") == (1, 4)
    assert oldest("cpu") == (1, 14)
    assert lowerings_of("cpu", "1.23.2") == ["legacy"]
    assert lowerings_of("cpu") == ["ort", "standard", "legacy"]
    assert lowerings_of("cpu", None, "bfloat16") == []
    assert lowerings_of("tensorrt", "unknown") == []


def test_replayed_graphs_are_for_cuda_alone() -> None:
    assert {row for row, support in SUPPORT.items() if support.replays} == {
        ("cuda", "ort"),
        ("cuda", "standard"),
    }


def test_every_word_of_a_row_is_a_manifest_s() -> None:
    for (backend, lowering), support in SUPPORT.items():
        assert backend in BACKENDS
        assert lowering in LOWERINGS
        assert set(support.parts) <= set(PARTS)
        assert set(support.precisions) <= set(PRECISIONS)


def test_every_precision_has_a_tolerance() -> None:
    assert set(TOLERANCES) == {*PRECISIONS, "tf32", "half cache", "half weights"}


@pytest.mark.parametrize(
    ("python", "system", "remedy"),
    [
        ((3, 10), ("linux", "x86_64"), ", the newest for Python 3.10: take Python 3.11 or later, "),
        ((3, 11), ("linux", "x86_64"), None),
        ((3, 12), ("darwin", "x86_64"), ", the newest for Macs with an Intel processor: take a "),
        ((3, 12), ("darwin", "arm64"), None),
        ((3, 10), ("darwin", "x86_64"), ", the newest for Macs with an Intel processor: take a "),
    ],
)
def test_where_no_newer_engine_is_to_be_had_a_refusal_names_what_to_do(
    small, monkeypatch, python, system, remedy
):
    monkeypatch.setattr(support_module.sys, "version_info", python)
    monkeypatch.setattr(support_module.sys, "platform", system[0])
    monkeypatch.setattr(support_module.platform, "machine", lambda: system[1])
    (graph,) = [graph for graph in small.manifest.graphs if graph.lowering == "ort"]
    reason = obstacle("cpu", "1.23.2", graph, "int8")
    assert reason is not None
    assert (remedy in reason) if remedy else reason.endswith("1.23.2 is installed")
