"""Choose and open the inference engine for a bundle. Each engine imports its vendor's package."""

import warnings
from dataclasses import replace

from ..bundle.bundle import Bundle
from ..bundle.manifest import Graph
from ..bundle.vocabulary import Part
from ..cuda.event_clock import EventClock
from ..cuda.shown import needs_gpu
from ..errors import EdgeGPTWarning, EngineError, InvalidInputError
from . import support
from .base import Engine, EngineInfo, State
from .native.choice import local_graph, open_native
from .options import DEFAULTS, EngineOptions
from .ort.cpu import OrtEngine
from .ort.cuda import CudaEngine
from .ort.cuda_provider import try_provider
from .ort.kernels import multiplies_blocks, multiplies_int8
from .ort.session import import_onnxruntime, installed_distributions
from .support import NATIVE, TENSORRT

__all__ = [
    "TENSORRT",
    "Engine",
    "EngineInfo",
    "State",
    "local_lowerings",
    "missing_engine",
    "onnxruntime_backend",
    "open_engine",
]


def local_lowerings(bundle: Bundle, backend: str = "cpu", part: Part = "decoder") -> list[str]:
    """Return the lowerings of `bundle` whose `part` the backend can run here, best first."""
    if backend == NATIVE:
        return [local_graph(bundle).lowering] if part == "decoder" else []
    with needs_gpu(backend):
        if backend in TENSORRT:
            from .tensorrt.builder import graph_for
            from .tensorrt.flavour import import_flavour

            return [graph_for(import_flavour(backend), bundle).lowering]
        return [graph.lowering for graph in _local_graphs(bundle, backend, part)]


def missing_engine(bundle: Bundle, backend: str = "cpu") -> str | None:
    """Return why this machine's CPU can run no graph of `bundle`, or None if it can run one.

    Other backends report this themselves when they are opened.
    """
    if backend != "cpu" or _local_graphs(bundle, backend, "decoder"):
        return None
    return next(iter(_obstacles(bundle, backend)), None)


def onnxruntime_backend(bundle: Bundle) -> str:
    """Return the best backend of ONNX Runtime that is ready at once, "cuda" or "cpu".

    It is "cuda" if onnxruntime-gpu is the installed distribution, its CUDA provider loads, and the
    bundle has a graph for it. Otherwise it is "cpu", with a warning if CUDA is installed but does
    not load. Whether "auto" is another engine, `proof.auto` decides.
    """
    if bundle.manifest.model_info.encoder is not None:
        return "cpu"
    if installed_distributions() == ["onnxruntime-gpu"] and local_lowerings(bundle, "cuda"):
        try:
            try_provider(import_onnxruntime("cuda"))
        except EngineError as error:
            warnings.warn(f"the CPU is used: {error}", EdgeGPTWarning, stacklevel=3)
        else:
            return "cuda"
    return "cpu"


def open_engine(
    bundle: Bundle,
    options: EngineOptions = DEFAULTS,
    *,
    lowering: str | None = None,
    part: Part = "decoder",
    as_written: bool = False,
    clock: EventClock | None = None,
) -> Engine:
    """Load the graphs of `bundle` that fit the backend best.

    Args:
        bundle: an opened bundle.
        options: what the user chose; "auto" is the best backend of ONNX Runtime here.
        lowering: one of `local_lowerings(bundle, backend)`; None: the best.
        part: "decoder" is the best graph that generates. Of a quantised bundle there are two more.
            "exact" multiplies weights by float32 activations; it is slow, and is the definition of
            the quantised model, whose activations other graphs may round. "half" has float16
            activations.
        as_written: let a CPU compute in float16 what is in float16; it takes float32 otherwise.
        clock: times the GPU's work in every step; not for the backend "cpu".

    Raises:
        InvalidInputError: if the backend does not take an option.
        EngineError: if it is not installed or cannot run this bundle. It never falls back silently.
    """
    backend = options.backend if options.backend != "auto" else onnxruntime_backend(bundle)
    why = support.misfit(bundle.manifest, backend)
    if why is not None:
        raise EngineError(why)
    with needs_gpu(backend):
        settings = replace(options, backend=backend)
        return _open(bundle, settings, lowering, part, clock, as_written=as_written)


def _open(
    bundle: Bundle,
    options: EngineOptions,
    lowering: str | None,
    part: Part,
    clock: EventClock | None,
    *,
    as_written: bool,
) -> Engine:
    backend = options.backend
    if options.tf32 and backend != "cuda":
        raise InvalidInputError(f"the backend {backend} has no TF32; it is for the backend cuda")
    if backend == NATIVE:
        return open_native(bundle, options.threads, options.cache)
    if backend in TENSORRT:
        return _open_tensorrt(bundle, options, clock)
    graphs = _local_graphs(bundle, backend, part)
    decoder = next((graph for graph in graphs if lowering in (None, graph.lowering)), None)
    if decoder is None:
        why = missing_engine(bundle, backend) or _no_graph(bundle, backend)
        raise EngineError(why)
    if backend == "cuda":
        return CudaEngine(bundle, decoder, options, clock=clock)
    prefills = [graph for graph in bundle.manifest.graphs if graph.part == "prefill"]
    same = [graph for graph in prefills if graph.lowering == decoder.lowering]
    rounds = multiplies_int8(import_onnxruntime(backend).__version__) and part == "decoder"
    prefill = same[0] if same and rounds else None
    if prefill is not None and not multiplies_blocks():
        decoder, prefill = prefill, None
    encoder = _encoder_of(bundle, decoder, exact=not rounds)
    return OrtEngine(
        bundle, decoder, prefill, options.threads, encoder=encoder, as_written=as_written
    )


def _encoder_of(bundle: Bundle, decoder: Graph, *, exact: bool) -> Graph | None:
    """Return the encoder that belongs to a decoder, if the model has one."""
    part: Part = "exact-encoder" if exact else "encoder"
    for graph in bundle.manifest.graphs:
        if (graph.part, graph.lowering) == (part, decoder.lowering):
            return graph
    if bundle.manifest.model_info.encoder is None:
        return None
    raise EngineError(f"{bundle.folder} has no {part} for {decoder.name}: export the model again")


def _open_tensorrt(bundle: Bundle, options: EngineOptions, clock: EventClock | None) -> Engine:
    from .tensorrt.engine import TensorRTEngine
    from .tensorrt.prepare import engine_for_this_gpu

    if options.threads is not None:
        raise InvalidInputError(f"threads is for the CPU; the backend {options.backend} takes none")
    prepared = engine_for_this_gpu(bundle, options.backend)
    return TensorRTEngine(prepared, cuda_graph=options.cuda_graph, clock=clock)


def _local_graphs(bundle: Bundle, backend: str, part: Part) -> list[Graph]:
    """Return the best graph of each lowering that ONNX Runtime can run here, best first."""
    version = import_onnxruntime(backend).__version__
    return support.fitting(bundle.manifest, backend, version, part)


def _obstacles(bundle: Bundle, backend: str) -> list[str]:
    """Return why the installed onnxruntime does not run the graphs that other versions run."""
    manifest, version = bundle.manifest, import_onnxruntime(backend).__version__
    found = (
        support.obstacle(backend, version, graph, manifest.precision)
        for graph in support.serving(manifest, backend)
    )
    return [reason for reason in found if reason is not None]


def _no_graph(bundle: Bundle, backend: str) -> str:
    have = ", ".join(graph.name for graph in bundle.manifest.graphs)
    why = _obstacles(bundle, backend)
    if not support.serving(bundle.manifest, backend):
        why = [f"the backend {backend} runs {', '.join(support.lowerings_of(backend))}"]
    told = "".join(f"; {reason}" for reason in why)
    return f"no graph of {bundle.folder} fits the backend {backend}; it has: {have}{told}"
