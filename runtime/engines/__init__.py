"""The inference engines, and the choice among them. One file an engine, its import inside it."""

from ..bundle import Bundle
from ..errors import EngineError, InvalidInputError
from .base import Engine, EngineInfo, State
from .ort import OrtEngine

__all__ = ["BACKENDS", "Engine", "EngineInfo", "State", "local_lowerings", "open_engine"]

BACKENDS = ("auto", "cpu", "tensorrt", "tensorrt-rtx")
TENSORRT = ("tensorrt", "tensorrt-rtx")
# Lowerings that ONNX Runtime can run, the best first.
ORT_LOWERINGS = ("ort", "standard")


def local_lowerings(bundle: Bundle, backend: str = "auto") -> list[str]:
    """Return the lowerings of `bundle` that a backend of this machine can run, the best first."""
    if backend in TENSORRT:
        from ..tensorrt_build.builder import graph_for
        from ..tensorrt_build.vendor import import_vendor

        return [graph_for(import_vendor(backend), bundle).lowering]
    have = {graph.lowering for graph in bundle.manifest.graphs if graph.part == "decoder"}
    return [lowering for lowering in ORT_LOWERINGS if lowering in have]


def open_engine(
    bundle: Bundle,
    backend: str = "auto",
    threads: int | None = None,
    *,
    lowering: str | None = None,
    exact: bool = False,
) -> Engine:
    """Load the graphs of `bundle` that fit `backend` best.

    Args:
        bundle: an opened bundle.
        backend: "cpu" is ONNX Runtime's CPU provider; "auto" is the best one there is. "tensorrt"
            and "tensorrt-rtx" build their engine first if none is stored, which takes a while.
        threads: threads inside an operator; None: the physical cores.
        lowering: one of `local_lowerings(bundle)`; None: the best.
        exact: multiply quantised weights by float32 activations: slow, and what the quantised
            model is by definition. By default engines may round activations, too.

    Raises:
        InvalidInputError: if there is no such backend.
        EngineError: if it is not installed or cannot run this bundle. Never falls back in silence.
    """
    if backend not in BACKENDS:
        raise InvalidInputError(f"no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InvalidInputError(f"threads is {threads!r}; it must be a whole number of 1 or more")
    if backend in TENSORRT:
        return _open_tensorrt(bundle, backend, threads)
    wanted = local_lowerings(bundle)[:1] if lowering is None else [lowering]
    parts = {graph.part: graph for graph in bundle.manifest.graphs if graph.lowering in wanted}
    decoder = parts.get("exact" if exact else "decoder")
    if decoder is None:
        have = ", ".join(graph.name for graph in bundle.manifest.graphs)
        raise EngineError(f"no graph of {bundle.folder} fits the backend {backend}; it has: {have}")
    return OrtEngine(bundle, decoder, None if exact else parts.get("prefill"), threads)


def _open_tensorrt(bundle: Bundle, flavour: str, threads: int | None) -> Engine:
    from ..tensorrt_build.prepare import engine_for_this_gpu
    from .tensorrt import TensorRTEngine

    if threads is not None:
        raise InvalidInputError(f"threads is for the CPU; the backend {flavour} takes none")
    return TensorRTEngine(engine_for_this_gpu(bundle, flavour))
