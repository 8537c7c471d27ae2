"""The two flavours of TensorRT, and the differences between them and between their versions.

`tensorrt`, versions 10.3 (JetPack 6) to 11, builds for the GPU of this machine. `tensorrt_rtx`
(TensorRT for RTX) has the same Python API. It builds for a named compute capability, even without
a GPU, and compiles the kernels on the device when the engine is first used.
"""

import importlib
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...bundle.manifest import Graph
from ...bundle.vocabulary import QUANTISED, Lowering
from ...errors import EngineError
from ...packages import pip_install
from ..support import ENGINES, lowerings_of, numbers, oldest

__all__ = ["Flavour", "import_flavour", "writes_in_place"]


@dataclass(frozen=True)
class Flavour:
    """An imported flavour.

    Attributes:
        backend: one of `TENSORRT`.
        module: `tensorrt` or `tensorrt_rtx`.
    """

    backend: str
    module: ModuleType

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.backend == "tensorrt-rtx"

    @property
    def version(self) -> str:
        """The version of the module."""
        return str(self.module.__version__)

    @property
    def name(self) -> str:
        """Flavour and version, for messages."""
        return f"{self.backend} {self.version}"

    @property
    def lowering(self) -> Lowering:
        """The lowering that this version reads from bundles that are not quantised."""
        return lowerings_of(self.backend, self.version)[0]

    def network_flags(self) -> int:
        """Return the flags for `create_network`: the graph decides the types, not the builder.

        Version 11 and later always does so, and may one day lack the flag.
        """
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def compute_capabilities(self) -> list[str]:
        """Return the compute capabilities to build for by name, as "8.9"; none for `tensorrt`."""
        members = getattr(self.module, "ComputeCapability", None)
        names = [] if members is None else list(members.__members__)
        found = [name for name in names if re.fullmatch(r"SM\d{2,3}", name)]
        return [f"{name[2:-1]}.{name[-1]}" for name in sorted(found, key=lambda n: int(n[2:]))]

    def set_compute_capability(self, config: Any, capability: str) -> None:
        """Let `config` build for one of `compute_capabilities`."""
        member = self.module.ComputeCapability.__members__["SM" + capability.replace(".", "")]
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(member, 0):
            raise EngineError(f"{self.name} refuses compute capability {capability}")

    def runtime_cache(self, engine: Any, stored: bytes | None) -> Any:
        """Return the object that keeps kernels compiled on the device; None for `tensorrt`.

        `stored` kernels are used if they fit this GPU, driver and version; TensorRT checks this.
        """
        if not self.is_rtx:
            return None
        cache = engine.create_runtime_config().create_runtime_cache()
        if stored is not None:
            cache.deserialize(stored)  # returns False if they do not fit; TensorRT compiles again
        return cache

    def new_context(self, engine: Any, runtime_cache: Any, *, decodes: bool, capture: bool) -> Any:
        """Return an execution context whose workspace the caller provides; None on failure.

        By default, TensorRT for RTX would switch to other kernels in the middle of a text, as soon
        as its own thread has compiled them. The kernels that run would not be those of the proof.

        Args:
            engine: a deserialized engine.
            runtime_cache: what `runtime_cache` returned.
            decodes: whether it will run only one shape. TensorRT for RTX then compiles kernels for
                this shape before the first step; otherwise it uses kernels that fit any shape.
            capture: let TensorRT for RTX run it as a CUDA graph; with `tensorrt` the caller must
                capture it, see `captures_itself`.
        """
        strategy = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self.is_rtx:
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.set_runtime_cache(runtime_cache)
        kernels = self.module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = (
            kernels.EAGER if decodes else kernels.NONE
        )
        if capture and self.captures_itself:
            config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    @property
    def captures_itself(self) -> bool:
        """Whether contexts capture their own CUDA graphs."""
        return self.is_rtx and hasattr(self.module, "CudaGraphStrategy")


def writes_in_place(graph: Graph) -> bool:
    """Return whether TensorRT updates the cache of a graph in place.

    TensorRT promises this only for cache updates that become its KV cache update layer. Other
    graphs get a second cache to write to.
    """
    return graph.lowering in ("standard", QUANTISED)


def import_flavour(backend: str) -> Flavour:
    """Import a flavour.

    Raises:
        EngineError: if it is not installed, does not load, or is too old.
    """
    name = ENGINES[backend]
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)
    except (ImportError, OSError, AttributeError) as error:  # OSError: a library is missing
        raise EngineError(
            f"the {backend} backend needs the package {name} ({error}): {pip_install(backend)}"
        ) from error
    flavour, minimum = Flavour(backend, module), oldest(backend)
    if numbers(version) < minimum:
        raise EngineError(
            f"{flavour.name} is too old: {name} {minimum[0]}.{minimum[1]} or later is needed"
        )
    if flavour.lowering == "standard" and not hasattr(module, "IKVCacheUpdateLayer"):
        raise EngineError(f"{flavour.name} is too old: it has no layer that updates a KV cache")
    return flavour
