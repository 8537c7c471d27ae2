"""Whether a bundle fits a machine: which backend can run it, and how much context and batch."""

from collections.abc import Callable
from dataclasses import dataclass

from ..bundle.bundle import Bundle
from ..bundle.manifest import Graph
from ..engines.memory import memory_needed
from ..engines.support import ENGINES, NATIVE, SUPPORT, fitting, lowerings_of
from ..engines.tensorrt.build_memory import running_memory
from ..engines.tensorrt.builder import REQUANTISE
from .diagnosis import Choice, Diagnosis, choose
from .needs import BACKENDS, CUDA_BACKENDS, LATER, ONNX_RUNTIME
from .report import MachineReport
from .words import dotted, gigabytes

__all__ = ["BundleFit", "Fit", "fit"]

# Bytes that a process takes besides weights, cache and workspace. On the CPU the peak of the
# resident memory was 76 MB above these with 43 MB of float32 weights, and 79 MB with 228 MB of
# them. The number for GPUs, for a CUDA context and the libraries' own buffers, is an assumption: no
# GPU was available to measure it.
RESERVE = {"cpu": 100_000_000, "cuda": 800_000_000}
MOST_ROWS = 1 << 16


@dataclass(frozen=True)
class Fit:
    """What one backend can do with a bundle. Memory in bytes; `memory` is 0 if unknown.

    `largest_context` is for one row, up to the block size. `largest_batch` is the number of rows
    with that context. Both are None if the memory is unknown, and 0 if nothing fits. `obstacle`
    says why the bundle cannot run here; it is "" if it can.
    """

    backend: str
    lowering: str | None
    memory: int
    needed: int
    largest_context: int | None
    largest_batch: int | None
    obstacle: str


@dataclass(frozen=True)
class BundleFit:
    """The fit of one bundle on all backends, and the backend that `auto` would take.

    `weights` is in bytes, `cache_per_token` in bytes per token of each row, `sources` in bytes for
    the longest source, 0 without an encoder.
    """

    id: str
    precision: str
    block_size: int
    weights: int
    cache_per_token: int
    sources: int
    backends: list[Fit]
    choice: Choice

    def works(self, backend: str) -> bool:
        """Return whether a backend, or auto, would run this bundle here."""
        if backend == "auto":
            return self.choice.backend is not None
        return any(fit.backend == backend and not fit.obstacle for fit in self.backends)


def fit(
    bundle: Bundle, report: MachineReport, diagnosis: Diagnosis, *, native: bool = False
) -> BundleFit:
    """Judge a bundle on a machine; `native`: whether its native engine there is proved."""
    fits = [_fit(bundle, backend, report, diagnosis) for backend in BACKENDS]
    working = [found.backend for found in fits if not found.obstacle]
    if native and _has_room(bundle, report):
        working.append(NATIVE)
    choice = choose(working)
    manifest, least = bundle.manifest, memory_needed(bundle, 1, 1)
    return BundleFit(
        id=manifest.id,
        precision=manifest.precision,
        block_size=manifest.model_info.block_size,
        weights=least.weights,
        cache_per_token=least.cache,
        sources=least.sources,
        backends=fits,
        choice=choice,
    )


def _has_room(bundle: Bundle, report: MachineReport) -> bool:
    """Return whether a native engine would have the memory for a token; True if it is unknown."""
    memory = _memory(NATIVE, report)
    return not memory or memory_needed(bundle, 1, 1, NATIVE).total + RESERVE["cpu"] <= memory


def _fit(bundle: Bundle, backend: str, report: MachineReport, diagnosis: Diagnosis) -> Fit:
    reserve = RESERVE["cuda" if backend in CUDA_BACKENDS else "cpu"]
    block_size = bundle.manifest.model_info.block_size
    graph, obstacle = _graph(bundle, backend, report)
    lowering = graph.lowering if graph else None
    if not diagnosis.works(backend):
        obstacle = f"see {', '.join(diagnosis.blocked[backend])}"

    def needed(batch: int, context: int) -> int:
        if backend in LATER and graph is not None:
            return running_memory(bundle, graph, batch, context).total + reserve
        return memory_needed(bundle, batch, context, backend).total + reserve

    memory = _memory(backend, report)
    most = needed(1, block_size)
    if not memory:
        return Fit(backend, lowering, memory, most, None, None, obstacle)
    context = _largest(lambda tokens: needed(1, tokens) <= memory, block_size)
    batch = _largest(lambda rows: needed(rows, context) <= memory, MOST_ROWS) if context else 0
    if not obstacle and not context:
        least = needed(1, 1)
        obstacle = f"needs {gigabytes(least)} at least; {gigabytes(memory)} are free"
    return Fit(backend, lowering, memory, most, context, batch, obstacle)


def _graph(bundle: Bundle, backend: str, report: MachineReport) -> tuple[Graph | None, str]:
    """Return the best graph that the backend's engine runs, or None and why there is none."""
    manifest, version = bundle.manifest, _engine_version(backend, report)
    graphs = fitting(manifest, backend, version)
    if graphs:
        return graphs[0], ""
    if not lowerings_of(backend, None, manifest.precision):
        return None, f"does not compute in {manifest.precision}"
    if not lowerings_of(backend, version):  # too old for any lowering, which the diagnosis reports
        return None, ""
    runs = lowerings_of(backend, version, manifest.precision)
    have = {graph.lowering for graph in manifest.graphs}
    on_others = fitting(manifest, backend, None)
    if on_others and have.issuperset(runs):
        lowering = on_others[0].lowering
        since = dotted(SUPPORT[backend, lowering].since)
        return None, f"runs {lowering} of it from {ENGINES[backend]} {since} on"
    remedy = "export it again" if manifest.quantization is None else REQUANTISE
    may_run = runs[-1] if runs else f"no {manifest.precision}"
    has = ", ".join(sorted(have))
    return None, f"its engine runs {may_run}, the bundle has only {has}: {remedy}"


def _engine_version(backend: str, report: MachineReport) -> str:
    if backend in ONNX_RUNTIME:
        return report.onnxruntime.version
    versions = {found.module: found.version for found in report.tensorrt}
    return versions.get(ENGINES[backend], "")


def _memory(backend: str, report: MachineReport) -> int:
    """Return the bytes that a backend may use: the free memory, or all if only that is known."""
    if backend not in CUDA_BACKENDS:
        return report.free_memory or report.memory
    if not report.gpus:
        return 0
    gpu = report.gpus[0]
    if gpu.integrated:  # CUDA's free memory leaves out what the system could reclaim
        return report.free_memory or report.memory
    return gpu.free or gpu.total


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number from 1 to `limit` that fits, 0 if none does (binary search)."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
