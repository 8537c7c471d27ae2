"""Open the native engine of a bundle, if one was built for this processor."""

import shlex

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.widening import wide_graph
from ...cache import touch
from ...errors import EngineError
from ..support import NATIVE, misfit
from .compiler import Processor, find_compiler
from .engine import NativeEngine
from .obstacle import check_possible, obstacle
from .prepare import stored_engine
from .store import Built

__all__ = ["local_graph", "missing", "open_built", "open_native", "open_stored", "worth_building"]


def open_native(bundle: Bundle, threads: int | None) -> NativeEngine:
    """Open the engine that was last built for this processor; never build one.

    Raises:
        EngineError: if there is none, or it cannot run here.
    """
    check_possible(bundle)
    engine = open_stored(bundle, threads)
    if engine is None:
        raise EngineError(
            f"no native engine of {bundle.folder} is built for this processor: run "
            f"{_command(bundle)}"
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
    return NativeEngine(built, local_graph(bundle), threads, encoder=_encoder(bundle))


def missing(bundle: Bundle) -> str | None:
    """Return why no native engine of a bundle runs here, and what to do; None: one is built."""
    why = misfit(bundle.manifest, NATIVE) or obstacle(bundle.manifest)
    if why is not None:
        return why
    if stored_engine(bundle) is not None:
        return None
    try:
        find_compiler(Processor())
    except EngineError as error:
        return str(error)
    return f"not built yet: {_command(bundle)}"


def worth_building(bundle: Bundle) -> str | None:
    """Return the command that would build a native engine here; None: there is no need or way."""
    command = _command(bundle)
    return command if (missing(bundle) or "").endswith(command) else None


def _command(bundle: Bundle) -> str:
    return f"edgegpt build {shlex.quote(str(bundle.folder))} --backend native"


def local_graph(bundle: Bundle) -> Graph:
    """Return what describes the decoder; the engine computes in float32, and reads no graph."""
    graphs = bundle.manifest.graphs
    return wide_graph(next(graph for graph in graphs if graph.part == "decoder"))


def _encoder(bundle: Bundle) -> Graph | None:
    """Return what describes the encoder, if the model has one."""
    graphs = bundle.manifest.graphs
    return next((wide_graph(graph) for graph in graphs if graph.part == "encoder"), None)
