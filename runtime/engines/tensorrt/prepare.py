"""Get the engine for a bundle on this machine: a stored one if it is valid, or a new one."""

import logging
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.sizes import PREFILL_ONLY
from ...cache import keep_within_limit, limit, touch
from ...cuda.memory import Cuda, Device, find_device
from ...cuda.shown import needs_gpu
from ...errors import EdgeGPTWarning
from ...files import check_room
from ...progress import Progress, silent
from ..stored import engine_folder
from .build_memory import check_memory
from .builder import build_plan, graph_for
from .flavour import Flavour, import_flavour
from .profiles import Limits, check_attention
from .store import (
    Identity,
    StoredEngine,
    load_engine,
    newest,
    store_engine,
)
from .target import Target, target_for

__all__ = [
    "Prepared",
    "Request",
    "build_engine",
    "engine_for_this_gpu",
    "stored_for_this_gpu",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready to use.

    Attributes:
        flavour: the flavour it is for.
        graph: the graph it computes.
        engine: its checked plan.
        seconds: how long building took; None if the engine was stored already.
    """

    flavour: Flavour
    graph: Graph
    engine: StoredEngine
    seconds: float | None


@dataclass(frozen=True)
class Request:
    """What `edgegpt build` is asked for; None stands for a default.

    Attributes:
        backend: one of `TENSORRT`.
        max_batch: most rows of a generation.
        max_context: cache slots of a row.
        compute_capability: that of the GPU it is for, as "8.9"; None: this machine's.
        folder: where to keep it; None: the user's cache.
    """

    backend: str
    max_batch: int | None = None
    max_context: int | None = None
    compute_capability: str | None = None
    folder: Path | None = None


def build_engine(bundle: Bundle, request: Request, progress: Progress = silent) -> Prepared:
    """Return the engine for exactly these settings; build it unless it is stored.

    `progress` is passed to `build_plan`.

    Raises:
        InvalidInputError: if a setting is impossible.
        BundleError: if a file differs from the exported one.
        EngineError: if TensorRT is not installed, or cannot build the engine.
    """
    with nullcontext() if request.compute_capability else needs_gpu(request.backend):
        flavour = import_flavour(request.backend)
        by_name = flavour.is_rtx and request.compute_capability is not None
        device = None if by_name else find_device(Cuda())
    limits = Limits.of(bundle.manifest.model_info, request.max_batch, request.max_context)
    target = target_for(flavour, request.compute_capability, device)
    graph = graph_for(flavour, bundle)
    identity = _identity(bundle, graph, flavour, target, limits)
    folder = request.folder or engine_folder(bundle.manifest.id)
    return _stored_or_built(bundle, folder, identity, flavour, graph, target, device, progress)


def engine_for_this_gpu(bundle: Bundle, backend: str, progress: Progress = silent) -> Prepared:
    """Return the engine to run here: the one that was last built for this GPU.

    If there is none, build one with the limits that `edgegpt verify` needs. `progress` is passed to
    `build_plan`.

    Raises:
        EngineError: as for `build_engine`, or if there is no GPU.
    """
    flavour = import_flavour(backend)
    device = find_device(Cuda())
    target = target_for(flavour, None, device)
    graph, folder = graph_for(flavour, bundle), engine_folder(bundle.manifest.id)
    usual = _usual(bundle, graph, flavour, target)
    identity = newest(folder, usual) or usual
    return _stored_or_built(bundle, folder, identity, flavour, graph, target, device, progress)


def stored_for_this_gpu(bundle: Bundle, backend: str) -> Prepared | None:
    """Return the engine of `engine_for_this_gpu` if it is stored, else None; build nothing.

    Raises:
        EngineError: if TensorRT is not installed, reads no graph of the bundle, or finds no GPU.
    """
    flavour = import_flavour(backend)
    target = target_for(flavour, None, find_device(Cuda()))
    graph, folder = graph_for(flavour, bundle), engine_folder(bundle.manifest.id)
    identity = newest(folder, _usual(bundle, graph, flavour, target))
    found = None if identity is None else load_engine(folder, identity, graph)
    return Prepared(flavour, graph, found, None) if isinstance(found, StoredEngine) else None


def _usual(bundle: Bundle, graph: Graph, flavour: Flavour, target: Target) -> Identity:
    limits = Limits.of(bundle.manifest.model_info, None, None)
    return _identity(bundle, graph, flavour, target, limits)


def _stored_or_built(
    bundle: Bundle,
    folder: Path,
    identity: Identity,
    flavour: Flavour,
    graph: Graph,
    target: Target,
    device: Device | None,
    progress: Progress,
) -> Prepared:
    found = load_engine(folder, identity, graph)
    if isinstance(found, StoredEngine):
        touch(found.path)
        logger.info("found the engine of %s for %s: %s", graph.name, flavour.name, found.path)
        return Prepared(flavour, graph, found, None)
    if found is not None:
        warnings.warn(f"{found}; the engine is built again", EdgeGPTWarning, stacklevel=2)
    limit()  # refused before the work
    bundle.check_hashes()  # an engine of damaged weights would pass as one of intact weights
    check_attention(bundle, identity.limits)
    check_memory(bundle, graph, identity.limits, device)
    weights = bundle.manifest.weights.items()  # an engine holds them, and a little more
    check_room(folder, sum(w.size for name, w in weights if not name.endswith(PREFILL_ONLY)))
    logger.info("building %s for %s, which takes a while", graph.name, flavour.name)
    begin = time.perf_counter()
    plan = build_plan(flavour, bundle, graph, identity.limits, target, progress)
    seconds = time.perf_counter() - begin
    engine = store_engine(folder, identity, graph, plan, seconds)
    keep_within_limit()
    size = len(plan) / 1e6
    logger.info("built %s in %.1f s, %.1f MB: %s", graph.name, seconds, size, engine.path)
    return Prepared(flavour, graph, engine, seconds)


def _identity(
    bundle: Bundle, graph: Graph, flavour: Flavour, target: Target, limits: Limits
) -> Identity:
    return Identity(
        bundle_id=bundle.manifest.id,
        graph=graph.name,
        flavour=flavour.backend,
        version=flavour.version,
        compute_capability=target.compute_capability,
        gpu=target.gpu,
        cuda=target.cuda,
        max_batch=limits.max_batch,
        max_context=limits.max_context,
    )
