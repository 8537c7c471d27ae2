"""The inference engines, and the choice among them. One file an engine, its import inside it."""

from ..bundle import Bundle
from ..errors import EngineError, InvalidInputError
from ..manifest import Graph
from .base import Engine, EngineInfo, State
from .ort import LOWERINGS, OrtEngine, obstacle

__all__ = [
    "BACKENDS",
    "Engine",
    "EngineInfo",
    "State",
    "local_lowerings",
    "missing_engine",
    "open_engine",
]

BACKENDS = ("auto", "cpu")


def local_lowerings(bundle: Bundle) -> list[str]:
    """Return the lowerings of `bundle` that an engine of this machine can run, the best first."""
    return [graph.lowering for graph in _decoders(bundle) if _obstacle(bundle, graph) is None]


def missing_engine(bundle: Bundle, backend: str = "auto") -> str | None:
    """Return why no engine of this machine can run any graph of `bundle`, or None if one can.

    Backends other than "auto" and "cpu" tell it by themselves when they are opened.
    """
    reasons = [_obstacle(bundle, graph) for graph in _decoders(bundle)]
    if backend not in ("auto", "cpu") or not all(reasons):
        return None
    return reasons[0] if reasons else None


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
        backend: "cpu" is ONNX Runtime's CPU provider; "auto" is the best one there is.
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
    # Where none can be run, the first one's error tells why.
    best = local_lowerings(bundle) or [graph.lowering for graph in _decoders(bundle)]
    wanted = best[:1] if lowering is None else [lowering]
    parts = {graph.part: graph for graph in bundle.manifest.graphs if graph.lowering in wanted}
    decoder = parts.get("exact" if exact else "decoder")
    if decoder is None:
        have = ", ".join(graph.name for graph in bundle.manifest.graphs)
        raise EngineError(f"no graph of {bundle.folder} fits the backend {backend}; it has: {have}")
    return OrtEngine(bundle, decoder, None if exact else parts.get("prefill"), threads)


def _obstacle(bundle: Bundle, graph: Graph) -> str | None:
    return obstacle(graph, bundle.manifest.precision)


def _decoders(bundle: Bundle) -> list[Graph]:
    """Return the decoders of lowerings that ONNX Runtime can run, the best first."""
    graphs = {graph.lowering: graph for graph in bundle.manifest.graphs if graph.part == "decoder"}
    return [graphs[lowering] for lowering in LOWERINGS if lowering in graphs]
