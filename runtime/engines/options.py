"""The user's choices about an engine, passed from the command line to the engine."""

import os
from dataclasses import dataclass

from ..errors import InvalidInputError
from ..whole import whole
from . import support
from .support import NATIVE

__all__ = ["BACKENDS", "CACHES", "DEFAULTS", "EngineOptions"]

BACKENDS = ("auto", *support.BACKENDS, NATIVE)
CACHES = ("float32", "float16")

# Threads beyond these are a mistake. Starting some ten thousand takes minutes that nothing can end.
MANY, MANY_PER_PROCESSOR = 64, 4


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs a model, and how.

    Attributes:
        backend: "cpu" and "cuda" are ONNX Runtime's providers. "tensorrt" and "tensorrt-rtx" build
            their engine first if none is stored, which takes a while. "auto" is the best one that
            is ready at once, see `proof.auto.settle`.
        threads: threads inside an operator; None: the engine's default.
        tf32: let CUDA round float32 products to TF32.
        cuda_graph: let CUDA replay decode steps as graphs; False is for comparison.
        cache: the type of keys and values on the backend "native", one of `CACHES`; None: float32
            there, and the type of their own on other backends.
    """

    backend: str = "auto"
    threads: int | None = None
    tf32: bool = False
    cuda_graph: bool = True
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InvalidInputError(
                f"no backend {self.backend!r}; there are: {', '.join(BACKENDS)}"
            )
        self._check_cache()
        threads = whole(self.threads)
        if threads is None:
            return
        if type(threads) is not int or threads < 1:
            raise InvalidInputError(
                f"threads is {threads!r}; it must be a whole number of 1 or more"
            )
        processors = os.cpu_count() or 1
        if threads > max(MANY, MANY_PER_PROCESSOR * processors):
            raise InvalidInputError(
                f"threads is {threads}, and this machine has {processors} processors: more threads "
                f"than processors only slow each other down"
            )
        object.__setattr__(self, "threads", threads)

    def _check_cache(self) -> None:
        if self.cache is None:
            return
        if self.cache not in CACHES:
            raise InvalidInputError(f"cache is {self.cache!r}; it must be {' or '.join(CACHES)}")
        if self.backend not in ("auto", NATIVE):
            raise InvalidInputError(
                f"the backend {self.backend} chooses the type of its keys and values itself: "
                f'cache="{self.cache}" is for the backend native, built and verified with it'
            )


DEFAULTS = EngineOptions()
