"""How much memory a build takes, predicted before it begins: running out of it kills the process.

The host's share was measured with tensorrt_rtx 1.7.1 on Linux, as growth of the resident set:
models of 0.1, 43 and 221 MB of weights took 230, 410 and 940 MB. The device's is not measured:
timing kernels needs what running the model needs, and the weights may be there twice.
"""

from dataclasses import dataclass, replace

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph
from ...bundle.onnx_file import external_tensors
from ...cuda.memory import Device
from ...errors import EngineError
from ...machine import available_memory
from ..memory import Memory, memory_needed
from .flavour import writes_in_place
from .profiles import Limits

__all__ = ["BuildMemory", "build_memory", "check_memory", "running_memory"]

HOST_BASE = 300_000_000  # bytes: the builder itself
HOST_PER_WEIGHT = 4  # copies of the weights: the file, the network, the builder's, the plan


@dataclass(frozen=True)
class BuildMemory:
    """Bytes that a build will have in use at its peak."""

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

    The weights are the graph's own: one whose weights are derived has others than the bundle, and
    leaves those out that only other graphs use. A cache that is not written in place is there
    twice.
    """
    usual = memory_needed(bundle, batch, context)
    tensors = external_tensors(bundle.file(graph.file).read_bytes())
    weights = sum({(one.location, one.offset): one.length for one in tensors}.values())
    caches = 1 if writes_in_place(graph) else 2
    return replace(usual, weights=weights, cache=caches * usual.cache)


def check_memory(bundle: Bundle, graph: Graph, limits: Limits, device: Device | None) -> None:
    """Refuse a build that cannot fit.

    Args:
        bundle: what is built.
        graph: of it.
        limits: for how many rows and tokens.
        device: the GPU that it is built on; None if on none.

    Raises:
        EngineError: if the host's memory or the GPU's is too small.
    """
    needed = build_memory(bundle, graph, limits)
    host = available_memory()
    how = f"for {limits.max_batch} rows of {limits.max_context} tokens"
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
