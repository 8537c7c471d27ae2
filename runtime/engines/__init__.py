"""The inference engines, and the choice among them. One file an engine, its import inside it."""

import warnings

from ..bundle import Bundle
from ..errors import EdgeGPTWarning, EngineError, InvalidInputError
from ..manifest import Graph
from .base import Engine, EngineInfo, State
from .cuda_provider import open_candidates, runs_on_cuda
from .ort import OrtEngine
from .ort_cuda import CudaEngine
from .ort_session import import_onnxruntime, installed_distributions

__all__ = [
    "BACKENDS",
    "Engine",
    "EngineInfo",
    "State",
    "local_lowerings",
    "open_engine",
    "resolve_backend",
]

BACKENDS = ("auto", "cpu", "cuda")
# Lowerings that ONNX Runtime can run, the best first.
ORT_LOWERINGS = ("ort", "standard")


def local_lowerings(bundle: Bundle, backend: str = "cpu", part: str = "decoder") -> list[str]:
    """Return the lowerings of `bundle` whose `part` the backend can run, the best first."""
    have = {graph.lowering for graph in bundle.manifest.graphs if _serves(graph, backend, part)}
    return [lowering for lowering in ORT_LOWERINGS if lowering in have]


def resolve_backend(bundle: Bundle, backend: str) -> str:
    """Return the backend to use: for "auto", the best one there is.

    That is "cuda" if onnxruntime-gpu is what is installed, its CUDA provider loads, and the bundle
    has a graph for it; else "cpu", with a warning where CUDA was installed but does not load.
    """
    if backend not in BACKENDS:
        raise InvalidInputError(f"no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    if backend != "auto":
        return backend
    if installed_distributions() == ["onnxruntime-gpu"] and local_lowerings(bundle, "cuda"):
        try:
            open_candidates(import_onnxruntime("cuda"))
        except EngineError as error:
            warnings.warn(f"the CPU is used: {error}", EdgeGPTWarning, stacklevel=2)
        else:
            return "cuda"
    return "cpu"


def open_engine(
    bundle: Bundle,
    backend: str = "auto",
    threads: int | None = None,
    *,
    lowering: str | None = None,
    exact: bool = False,
    tf32: bool = False,
    cuda_graph: bool = True,
) -> Engine:
    """Load the graphs of `bundle` that fit `backend` best.

    Args:
        bundle: an opened bundle.
        backend: "cpu" and "cuda" are ONNX Runtime's providers; "auto" is the best one there is, see
            `resolve_backend`.
        threads: threads inside an operator; None: the physical cores.
        lowering: one of `local_lowerings(bundle, backend)`; None: the best.
        exact: multiply quantised weights by float32 activations: slow, and what the quantised
            model is by definition. By default engines may round activations, too.
        tf32: let CUDA round float32 products to TF32.
        cuda_graph: let CUDA replay decode steps as graphs; off, for comparison.

    Raises:
        InvalidInputError: if there is no such backend.
        EngineError: if it is not installed or cannot run this bundle. Never falls back in silence.
    """
    asked, backend = backend, resolve_backend(bundle, backend)
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InvalidInputError(f"threads is {threads!r}; it must be a whole number of 1 or more")
    if tf32 and backend != "cuda":
        raise InvalidInputError(f"the backend {backend} has no TF32; it is for the backend cuda")
    part = "exact" if exact else "decoder"
    wanted = local_lowerings(bundle, backend, part)[:1] if lowering is None else [lowering]
    graphs = [graph for graph in bundle.manifest.graphs if graph.lowering in wanted]
    decoder = next((graph for graph in graphs if _serves(graph, backend, part)), None)
    if decoder is None:
        raise EngineError(_no_graph(bundle, asked, backend))
    if backend == "cuda":
        return CudaEngine(bundle, decoder, threads, tf32=tf32, cuda_graph=cuda_graph)
    prefill = next((graph for graph in graphs if graph.part == "prefill" and not exact), None)
    return OrtEngine(bundle, decoder, prefill, threads)


def _serves(graph: Graph, backend: str, part: str) -> bool:
    """Return whether the backend can run `graph` as the "decoder" or the "exact" part."""
    if backend != "cuda":
        return graph.part == part
    # No kernel there rounds activations, so an exact graph generates as well.
    return runs_on_cuda(graph) and graph.part in (part, "exact")


def _no_graph(bundle: Bundle, asked: str, backend: str) -> str:
    have = ", ".join(graph.name for graph in bundle.manifest.graphs)
    why = ""
    if backend == "cuda":
        why = " (CUDA has no kernel for the fused attention of a float32 graph): export it again"
    return f"no graph of {bundle.folder} fits the backend {asked}; it has: {have}{why}"
