"""Build a plan, TensorRT's name for a serialized engine.

TensorRT works in a thread of its own. Ctrl-C reaches only the main thread. If TensorRT ran there,
KeyboardInterrupt would be raised in a callback and get lost in the C++ code. An error of the
caller's progress function would get lost, too, so that is called in the caller's thread.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from ...bundle.bundle import Bundle
from ...bundle.derived_weights import graph_with_weights
from ...bundle.manifest import Graph
from ...errors import EdgeGPTError, EngineError
from ...progress import Progress, silent
from ..support import fitting, lowerings_of, misfit, oldest
from .flavour import Flavour
from .log import Log
from .monitor import BuildMonitor
from .network import make_attention_decomposable, parse_network
from .profiles import Limits, add_profiles, profiles
from .target import Target

__all__ = ["REQUANTISE", "build_plan", "graph_for"]

REQUANTISE = (
    "export it again with this edgegpt; or without quantising it, if its widths are no multiples "
    "of its blocks"
)

WAIT_S = 0.2  # longest single wait, for systems where waiting blocks Ctrl-C
BEGIN_S = 1.0  # a thread whose start was interrupted has begun by then, or never will


def graph_for(flavour: Flavour, bundle: Bundle) -> Graph:
    """Return the graph of `bundle` that this version of TensorRT reads.

    Raises:
        EngineError: if the bundle has none.
    """
    manifest = bundle.manifest
    why = misfit(manifest, flavour.backend)
    if why is not None:
        raise EngineError(why)
    graphs = fitting(manifest, flavour.backend, flavour.version)
    if graphs:
        return graphs[0]
    reads = lowerings_of(flavour.backend, flavour.version, manifest.precision)
    if not reads:
        needed = oldest(flavour.backend, manifest.precision)
        raise EngineError(
            f"{flavour.name} reads nothing of the {manifest.precision} bundle {bundle.folder}: "
            f"quantised weights need {flavour.backend} {needed[0]}.{needed[1]} or later; or export "
            f"the model without quantising it"
        )
    have = ", ".join(graph.name for graph in manifest.graphs)
    quantised = manifest.quantization is not None
    raise EngineError(
        f"{flavour.name} reads the lowering {reads[0]!r}, and {bundle.folder} has only {have}: "
        f"{REQUANTISE if quantised else 'export the model again with this edgegpt'}"
    )


def build_plan(
    flavour: Flavour,
    bundle: Bundle,
    graph: Graph,
    limits: Limits,
    target: Target,
    progress: Progress = silent,
) -> memoryview:
    """Return the plan of `graph` for `target`, as bytes in TensorRT's memory.

    `progress` is called with what TensorRT does, in the calling thread. An error that it raises
    ends the build, as Ctrl-C does. The error is raised here once TensorRT has ended.

    Raises:
        EngineError: if TensorRT cannot read or build the graph.
        KeyboardInterrupt: if the user stopped the build.
    """
    monitor = BuildMonitor(flavour, f"building {graph.name}")
    work = _Work(lambda: _build(flavour, bundle, graph, limits, target, monitor))
    try:
        monitor.report(progress)
        work.start()
        while not work.finished.wait(WAIT_S):
            monitor.report(progress)
    except BaseException:
        monitor.cancelled.set()
        work.wait_for_end()
        raise
    return memoryview(work.result())


def _build(
    flavour: Flavour,
    bundle: Bundle,
    graph: Graph,
    limits: Limits,
    target: Target,
    monitor: BuildMonitor,
) -> Any:
    if monitor.cancelled.is_set():
        raise EngineError("the build was stopped before it began")
    log = Log(flavour)
    builder = log.make(flavour.module, "Builder", log.logger)
    with graph_with_weights(bundle, graph) as path:
        network = parse_network(flavour, log, builder, path, graph, limits.max_context)
    make_attention_decomposable(flavour, network)
    config = log.make(builder, "create_builder_config")
    flags = flavour.module.BuilderFlag
    config.clear_flag(flags.TF32)  # it is on by default, and would round float32 products
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):  # without it, RTX may allocate during a step
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if flavour.is_rtx:
        flavour.set_compute_capability(config, target.compute_capability)
    add_profiles(builder, config, profiles(graph, limits))
    config.progress_monitor = monitor.vendors
    plan = log.ask(builder, "build_serialized_network", network, config)
    if plan is None:
        raise EngineError(f"{flavour.name} cannot build {graph.name}: {log.last()}")
    return plan


class _Work(threading.Thread):
    """A function in a thread of its own, and its result or error."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(name="tensorrt-build")
        self.function = function
        self.began, self.finished = threading.Event(), threading.Event()
        self.value: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Call the function."""
        self.began.set()
        try:
            self.value = self.function()
        except Exception as error:  # `result` raises it
            self.error = error
        finally:
            self.finished.set()

    def wait_for_end(self) -> None:
        """Wait for the end, however often Ctrl-C is pressed; do not wait if it never began.

        The C++ runtime aborts a process that ends while TensorRT is at work.
        """
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                if self.began.wait(BEGIN_S):
                    self.finished.wait()
                return

    def result(self) -> Any:
        """Return what the function returned, or raise what it raised."""
        if isinstance(self.error, EdgeGPTError):
            raise self.error
        if self.error is not None:  # the bindings raise several unrelated types
            raise EngineError(f"TensorRT failed while building: {self.error}") from self.error
        return self.value
