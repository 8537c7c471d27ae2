"""Building a plan, TensorRT's name for a serialized engine.

The builder runs in a thread of its own, so that Ctrl-C reaches the waiting one, which then asks
TensorRT to stop: an exception must not pass through the C++ code that calls back.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..bundle import Bundle
from ..errors import EngineError
from ..manifest import Graph
from .network import Log, make_attention_decomposable, parse_network
from .profiles import Limits, add_profiles, profiles
from .progress import BuildProgress
from .target import Target
from .vendor import Vendor

__all__ = ["build_plan", "graph_for"]

WAIT_S = 0.2  # how often the waiting thread looks up, for systems where waiting blocks Ctrl-C


def graph_for(vendor: Vendor, bundle: Bundle) -> Graph:
    """Return the graph of `bundle` that this version of TensorRT reads.

    Raises:
        EngineError: if the bundle has none.
    """
    for graph in bundle.manifest.graphs:
        if graph.part == "decoder" and graph.lowering == vendor.lowering:
            return graph
    have = ", ".join(graph.name for graph in bundle.manifest.graphs)
    why = "export the model again with this edgegpt"
    if bundle.manifest.quantization is not None:
        why = (
            f"the graphs of an {bundle.manifest.precision} bundle use operators of ONNX Runtime's "
            f"own; export the model without quantising it"
        )
    raise EngineError(
        f"{vendor.name} reads the lowering {vendor.lowering!r}, and {bundle.folder} has only "
        f"{have}: {why}"
    )


def build_plan(
    vendor: Vendor, bundle: Bundle, graph: Graph, limits: Limits, target: Target
) -> memoryview:
    """Return the plan of `graph` for `target`, as bytes in TensorRT's memory.

    Raises:
        EngineError: if TensorRT cannot read or build the graph.
        KeyboardInterrupt: if the user stopped it; TensorRT has ended by then.
    """
    log = Log(vendor)
    builder = _made(vendor.module.Builder(log.logger), "builder", vendor, log)
    network = parse_network(vendor, log, builder, bundle, graph, limits.max_context)
    make_attention_decomposable(vendor, network)
    config = _made(builder.create_builder_config(), "builder config", vendor, log)
    config.clear_flag(vendor.module.BuilderFlag.TF32)  # on by default; float32 means float32
    if vendor.is_rtx:
        vendor.set_compute_capability(config, target.compute_capability)
    add_profiles(builder, config, profiles(graph, limits))
    with BuildProgress(vendor, f"building {graph.name} for {vendor.name}") as progress:
        config.progress_monitor = progress.monitor
        plan = _in_thread(lambda: builder.build_serialized_network(network, config), progress)
    if plan is None:
        raise EngineError(f"{vendor.name} cannot build {graph.name}: {log.last()}")
    return memoryview(plan)


@dataclass
class _Outcome:
    plan: Any = None
    error: BaseException | None = None


def _in_thread(build: Callable[[], Any], progress: BuildProgress) -> Any:
    outcome = _Outcome()

    def work() -> None:
        try:
            outcome.plan = build()
        except BaseException as error:  # handed to the waiting thread
            outcome.error = error

    thread = threading.Thread(target=work, name="tensorrt-build")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(WAIT_S)
    except KeyboardInterrupt:
        progress.cancel()
        thread.join()
        raise
    if outcome.error is not None:
        raise EngineError(f"TensorRT failed while building: {outcome.error}") from outcome.error
    return outcome.plan


def _made(thing: Any, name: str, vendor: Vendor, log: Log) -> Any:
    """Return what the vendor made; it gives None where it could not."""
    if thing is None:
        raise EngineError(f"{vendor.name} gave no {name}: {log.last()}")
    return thing
