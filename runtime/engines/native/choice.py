"""Open the native engine of a bundle, if one was built for this processor."""

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.widening import wide_graph, with_caches
from ...cache import touch
from ...errors import EngineError
from ..support import NATIVE, misfit
from .compiler import Processor, find_compiler
from .engine import NativeEngine
from .obstacle import check_possible, obstacle
from .prepare import build_command, stored_engine
from .store import Built

__all__ = ["local_graph", "missing", "open_built", "open_native", "open_stored", "worth_building"]


def open_native(bundle: Bundle, threads: int | None, cache: str | None = None) -> NativeEngine:
    """Open the engine that was last built for this processor; never build one.

    Raises:
        EngineError: if there is none, or it cannot run here.
    """
    check_possible(bundle)
    engine = open_stored(bundle, threads, cache)
    if engine is None:
        raise EngineError(
            f"no native engine of {bundle.folder} is built for this processor: run "
            f"{build_command(bundle)}"
        )
    return engine


def open_stored(
    bundle: Bundle, threads: int | None, cache: str | None = None
) -> NativeEngine | None:
    """Open the engine that was last built for this processor; None: there is none.

    Raises:
        EngineError: if it cannot run here, or another edgegpt built it.
    """
    built = stored_engine(bundle)
    if built is None:
        return None
    touch(built.folder)
    return open_built(bundle, built, threads, cache)


def open_built(
    bundle: Bundle, built: Built, threads: int | None = None, cache: str | None = None
) -> NativeEngine:
    """Open what was built of `bundle`; `cache` None: keys and values in float32."""
    kind = cache or "float32"
    graph, encoder = local_graph(bundle, kind), _encoder(bundle)
    return NativeEngine(built, graph, threads, kind, encoder=encoder)


def missing(bundle: Bundle) -> str | None:
    """Return why no native engine of a bundle runs here, and what to do; None: one is built."""
    why = misfit(bundle.manifest, NATIVE) or obstacle(bundle.manifest)
    if why is not None:
        return why
    why = f"not built yet: {build_command(bundle)}"
    try:
        if stored_engine(bundle) is not None:
            return None
    except EngineError as error:
        why = str(error)
    try:
        find_compiler(Processor())
    except EngineError as error:
        return str(error)
    return why


def worth_building(bundle: Bundle) -> str | None:
    """Return the command that would build a native engine here; None: there is no need or way."""
    command = build_command(bundle)
    return command if (missing(bundle) or "").endswith(command) else None


def local_graph(bundle: Bundle, cache: str = "float32") -> Graph:
    """Return what describes the decoder; the engine computes in float32, and reads no graph."""
    graphs = bundle.manifest.graphs
    graph = wide_graph(next(graph for graph in graphs if graph.part == "decoder"))
    return with_caches(graph, "float16" if cache == "float16" else "float32")


def _encoder(bundle: Bundle) -> Graph | None:
    """Return what describes the encoder, if the model has one."""
    graphs = bundle.manifest.graphs
    return next((wide_graph(graph) for graph in graphs if graph.part == "encoder"), None)
