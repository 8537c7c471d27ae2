"""Which engine the backend "auto" is: one answer for all that open, prove, measure or describe one.

What an engine is for depends on receipts. So this is a floor above the engines, which know nothing
of their proofs.
"""

import logging
import shlex
from contextlib import closing
from dataclasses import dataclass, replace

from ..bundle.bundle import Bundle
from ..engines.choice import onnxruntime_backend
from ..engines.native.choice import open_stored
from ..engines.options import DEFAULTS, EngineOptions
from ..engines.ort.session import installed_distributions
from ..engines.support import NATIVE
from ..errors import EdgeGPTError, EngineError
from .receipt_store import missing_proof

__all__ = ["Settled", "proved_native", "settle"]

logger = logging.getLogger(__name__)

PROVED = "built and proved for this processor"


@dataclass(frozen=True)
class Settled:
    """What the user chose, and which engine that is.

    Attributes:
        options: the same with a backend by its name, never "auto".
        unused: why "auto" is not the native engine that was built here; None: it is, or it was not
            asked, or there is none.
        is_native: whether "auto" is the native engine.
    """

    options: EngineOptions
    unused: str | None = None
    is_native: bool = False

    @property
    def note(self) -> str | None:
        """What a user should know about the choice; None: nothing that is not plain to see."""
        if self.is_native:
            return f"auto: native, {PROVED}; --backend cpu for ONNX Runtime"
        if self.unused is not None:
            return f"auto: {self.options.backend}; not the native engine: {self.unused}"
        return None


def settle(bundle: Bundle, options: EngineOptions = DEFAULTS) -> Settled:
    """Return which engine the user's choice is for a bundle, here and now.

    A backend by name is that one. "auto" is "cuda" where ONNX Runtime has it, else "native" where
    an engine is built for this processor and its last receipt is good, else "cpu". With a type of
    the cache, it is "native" or an error.

    Raises:
        EngineError: if only a native engine would do, and none is built and proved.
    """
    if options.backend != "auto":
        return Settled(options)
    backend = onnxruntime_backend(bundle)
    unused = None
    if options.cache is not None or (backend == "cpu" and not options.tf32):
        is_proved, unused = proved_native(bundle, options)
        if is_proved:
            logger.info("auto is native: %s", PROVED)
            return Settled(replace(options, backend=NATIVE), is_native=True)
    if options.cache is not None:
        folder = shlex.quote(str(bundle.folder))
        raise EngineError(
            f"no engine with keys and values in {options.cache} is built and proved here: run "
            f"edgegpt build {folder} --backend native, then edgegpt verify {folder} "
            f"--backend native --cache {options.cache}"
        )
    installed = ", ".join(installed_distributions()) or "no engine"
    logger.info("auto is %s; installed: %s", backend, installed)
    if unused is not None:
        logger.warning("auto is %s; not the native engine: %s", backend, unused)
    return Settled(replace(options, backend=backend), unused)


def proved_native(bundle: Bundle, options: EngineOptions = DEFAULTS) -> tuple[bool, str | None]:
    """Return whether the native engine runs here and is proved; if it is only built, why not."""
    try:
        engine = open_stored(bundle, options.threads, options.cache)
    except EdgeGPTError as error:  # another engine may still run the bundle
        return False, str(error)
    if engine is None:
        return False, None
    with closing(engine):
        reason = missing_proof(bundle, engine.graph.name, engine.info)
    return reason is None, reason
