"""Predict how much memory a build takes, because running out of memory kills the process.

The host's part was measured with tensorrt_rtx 1.7.1 on Linux, as growth of the resident set: models
of 0.1, 43 and 221 MB of weights took 230, 410 and 940 MB. The device's part is not measured. It is
estimated as what running the model takes, because the build times kernels, plus a second copy of
the weights.
"""

from dataclasses import dataclass, replace

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.onnx_file import external_tensors
from ...cuda.memory import Device
from ...errors import EngineError
from ...machine import available_memory
from ...quantity import quantity
from ..memory import Memory, memory_needed
from .flavour import writes_in_place
from .profiles import Limits

__all__ = ["BuildMemory", "build_memory", "check_memory", "running_memory"]

HOST_BASE = 300_000_000  # bytes: the builder itself
HOST_PER_WEIGHT = 4  # copies of the weights: in the file, network, builder and plan


@dataclass(frozen=True)
class BuildMemory:
    """Bytes that a build uses at its peak."""

    host: int
    device: int


def build_memory(bundle: Bundle, graph: Graph, limits: Limits) -> BuildMemory:
    """Return what building an engine of `graph` with these limits will take."""
    running = running_memory(bundle, graph, limits.max_batch, limits.max_context)
    return BuildMemory(
        host=HOST_BASE + HOST_PER_WEIGHT * running.weights,
        device=running.total + running.weights,
    )


def running_memory(bundle: Bundle, graph: Graph, batch: int, context: int) -> Memory:
    """Return what an engine of `graph` needs for `batch` rows of `context` tokens.

    The weights are those of the graph, not those of the bundle: a graph may have derived weights,
    and does not have weights that only other graphs use. A cache that is not written in place
    counts twice.
    """
    usual = memory_needed(bundle, batch, context)
    tensors = external_tensors(bundle.file(graph.file).read_bytes())
    weights = sum({(one.location, one.offset): one.length for one in tensors}.values())
    caches = 1 if writes_in_place(graph) else 2
    return replace(usual, weights=weights, cache=caches * usual.cache)


def check_memory(bundle: Bundle, graph: Graph, limits: Limits, device: Device | None) -> None:
    """Refuse a build that cannot fit.

    Args:
        bundle: the bundle to build.
        graph: the graph of it.
        limits: how many rows and tokens the engine is for.
        device: the GPU that the build uses; None if it uses none.

    Raises:
        EngineError: if the host's memory or the GPU's is too small.
    """
    needed = build_memory(bundle, graph, limits)
    host = available_memory()
    how = f"for {quantity(limits.max_batch, 'row')} of {quantity(limits.max_context, 'token')}"
    if device is not None and device.shares_memory:
        _compare(needed.host + needed.device, host, f"building {how} on this device")
        return
    _compare(needed.host, host, f"building {how}")
    if device is not None:
        _compare(needed.device, device.free_memory, f"building {how} on {device.name}")


def _compare(needed: int, free: int | None, purpose: str) -> None:
    if free is not None and needed > free:
        raise EngineError(
            f"{purpose} would take about {needed / 1e6:,.0f} MB of memory, and {free / 1e6:,.0f} "
            f"MB are free: build with a smaller --max-batch or --max-context, or end other programs"
        )
