"""The inference engines, and the choice among them. One file an engine, its import inside it."""

from ..bundle import Bundle
from ..errors import EngineError, InvalidInputError
from .base import Engine, EngineInfo, State
from .ort import OrtEngine

__all__ = ["BACKENDS", "Engine", "EngineInfo", "State", "open_engine"]

BACKENDS = ("auto", "cpu")
# Lowerings that ONNX Runtime can run, the best first.
ORT_LOWERINGS = ("ort", "standard")


def open_engine(
    bundle: Bundle, backend: str = "auto", threads: int | None = None, exact: bool = False
) -> Engine:
    """Load the graph of `bundle` that fits `backend` best.

    Args:
        bundle: an opened bundle.
        backend: "cpu" is ONNX Runtime's CPU provider; "auto" is the best one there is.
        threads: threads inside an operator; None: the physical cores.
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
    for lowering in ORT_LOWERINGS:
        parts = {
            graph.part: graph for graph in bundle.manifest.graphs if graph.lowering == lowering
        }
        if "decoder" in parts:
            prefill = None if exact else parts.get("prefill")
            return OrtEngine(bundle, parts["decoder"], prefill, threads, exact)
    have = ", ".join(graph.lowering for graph in bundle.manifest.graphs)
    raise EngineError(f"no graph of {bundle.folder} fits the backend {backend}; it has: {have}")
