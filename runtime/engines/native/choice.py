"""Open the native engine of a bundle, if one was built for this processor."""

import shlex

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.widening import wide_graph
from ...cache import touch
from ...errors import EngineError
from .engine import NativeEngine
from .prepare import stored_engine
from .store import Built

__all__ = ["local_graph", "open_built", "open_native", "open_stored"]


def open_native(bundle: Bundle, threads: int | None) -> NativeEngine:
    """Open the engine that was last built for this processor; never build one.

    Raises:
        EngineError: if there is none, or it cannot run here.
    """
    engine = open_stored(bundle, threads)
    if engine is None:
        raise EngineError(
            f"no native engine of {bundle.folder} is built for this processor: run edgegpt build "
            f"{shlex.quote(str(bundle.folder))} --backend native"
        )
    return engine


def open_stored(bundle: Bundle, threads: int | None) -> NativeEngine | None:
    """Open the engine that was last built for this processor; None: there is none."""
    built = stored_engine(bundle)
    if built is None:
        return None
    touch(built.folder)
    return open_built(bundle, built, threads)


def open_built(bundle: Bundle, built: Built, threads: int | None = None) -> NativeEngine:
    """Open what was built of `bundle`."""
    return NativeEngine(built, local_graph(bundle), threads)


def local_graph(bundle: Bundle) -> Graph:
    """Return what describes the decoder; the engine computes in float32, and reads no graph."""
    graphs = bundle.manifest.graphs
    return wide_graph(next(graph for graph in graphs if graph.part == "decoder"))
