"""Prepare a faster engine while a slower one is at work.

A TensorRT engine takes minutes to build. Unless a proved one is stored already, `auto` starts at
once on ONNX Runtime, and a child process runs `edgegpt verify`. It builds the engine, keeps it in
the user's cache, and replays the golden vectors on it. Only if that passed is the engine opened
here, and the next generation uses it.

The build has its own process because it takes memory and the interpreter's lock, and because a
build that fails or is stopped must not take its parent with it.
"""

import logging
import shlex
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial

from .bundle.bundle import Bundle
from .cuda.memory import Cuda, find_device
from .engines.base import Engine, EngineInfo, Sources, State
from .engines.choice import TENSORRT
from .engines.tensorrt.builder import graph_for
from .engines.tensorrt.engine import TensorRTEngine
from .engines.tensorrt.flavour import import_flavour
from .engines.tensorrt.prepare import stored_for_this_gpu
from .errors import EdgeGPTWarning, EngineError, InvalidInputError
from .processes import python_program
from .proof.receipt_store import missing_proof

__all__ = ["Upgrade", "UpgradingEngine", "proving_command", "with_upgrade"]

logger = logging.getLogger(__name__)

STOP_S = 20.0  # to wait for a child that was asked to end: a build ends between two of its steps


def with_upgrade(bundle: Bundle, first: Engine) -> Engine:
    """Return an engine that begins as `first`, and becomes TensorRT's if this machine can run it.

    It uses the first flavour of TensorRT that is installed, has a GPU and reads a graph of the
    bundle. Encoder-decoders stay on the first engine.
    """
    if bundle.manifest.model_info.encoder is not None:
        return first
    for backend in TENSORRT:
        if _could_run(bundle, backend):
            ready = _ready(bundle, backend)
            if ready is not None:
                logger.info("%s begins: its engine was built and proved before", backend)
                return UpgradingEngine(first, None, ready)
            if python_program() is None:
                warnings.warn(
                    f"no faster engine: this application is no Python that could build one beside "
                    f"it; run edgegpt verify {shlex.quote(str(bundle.folder))} --backend {backend}",
                    EdgeGPTWarning,
                    stacklevel=3,
                )
                return first
            command = proving_command(bundle, backend)
            logger.info("%s is made ready by: %s", backend, shlex.join(command))
            return UpgradingEngine(first, Upgrade(command, partial(_proved, bundle, backend)))
    return first


def _could_run(bundle: Bundle, backend: str) -> bool:
    try:
        graph_for(import_flavour(backend), bundle)
        return find_device(Cuda()) is not None
    except EngineError as error:
        logger.debug("%s does not run here: %s", backend, error)
        return False


def _ready(bundle: Bundle, backend: str) -> Engine | None:
    """Open the engine that an earlier process built and proved, if there is one."""
    try:
        return _proved(bundle, backend)
    except EngineError as error:  # it has to be built or proved first, which reports what is wrong
        logger.debug("%s is not ready yet: %s", backend, error)
        return None


def _proved(bundle: Bundle, backend: str) -> Engine:
    """Open the engine that is stored for this GPU and proved; an EngineError if there is none."""
    prepared = stored_for_this_gpu(bundle, backend)
    if prepared is None:
        raise EngineError(f"no {backend} engine is stored")
    engine = TensorRTEngine(prepared)
    reason = missing_proof(bundle, engine.graph.name, engine.info)
    if reason is not None:
        engine.close()
        raise EngineError(reason)
    return engine


def proving_command(bundle: Bundle, backend: str) -> list[str]:
    """Return the command that builds and verifies the backend's engine, and exits with 0 if it
    passed.
    """
    options = ["--backend", backend, "--json"]
    return [sys.executable, "-m", "edgegpt", "verify", str(bundle.folder.absolute()), *options]


class UpgradingEngine(Engine):
    """An engine that makes its new states with a better engine as soon as there is one.

    A generation keeps the engine that it began with. The first engine stays open, because it also
    takes generations that are too large for the better one.
    """

    def __init__(
        self, first: Engine, upgrade: "Upgrade | None", better: Engine | None = None
    ) -> None:
        """Begin with `better` if given, else with `first`; `close` closes them all."""
        self._first, self._upgrade, self._better = first, upgrade, better
        self.graph = (better or first).graph

    @property
    def info(self) -> EngineInfo:
        """Name, version and device of the engine that the next generation will use."""
        return (self._better or self._first).info

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> State:
        """Return an empty cache for `rows` texts of up to `context` tokens."""
        assert sources is None, "encoder-decoders have no better engine"
        taken = self._upgrade.take() if self._upgrade else None
        if taken is not None:
            self._better, self.graph = taken, taken.graph
            logger.info("the next generation is on %s %s", taken.info.name, taken.info.device)
        if self._better is not None:
            try:
                return self._better.new_state(rows, context)
            except InvalidInputError as error:  # it was built for fewer rows or a smaller context
                logger.debug("the first engine takes a generation: %s", error)
            except EngineError as error:  # such as no room on the GPU
                warnings.warn(f"the first engine goes on: {error}", EdgeGPTWarning, stacklevel=2)
        return self._first.new_state(rows, context)

    def close(self) -> None:
        """Stop the upgrade and free both engines."""
        if self._upgrade is not None:
            self._upgrade.cancel()
        self._first.close()
        if self._better is not None:
            self._better.close()


class Upgrade:
    """One attempt to get a better engine. Safe to use from several threads."""

    def __init__(self, command: Sequence[str], opener: Callable[[], Engine]) -> None:
        """Start the child process.

        Args:
            command: builds the engine and proves it; exit code 0 if it did.
            opener: opens that engine here; called once, in another thread.
        """
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._failure: str | None = None
        self._cancelled = False
        self._opener = opener
        self._child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._thread = threading.Thread(target=self._follow, name="edgegpt-upgrade", daemon=True)
        self._thread.start()

    def take(self) -> Engine | None:
        """Return the engine once, when it is ready; before and after, None.

        Warns once if there will be none.
        """
        with self._lock:
            engine, self._engine = self._engine, None
            failure, self._failure = self._failure, None
        if failure is not None:
            warnings.warn(f"no faster engine: {failure}", EdgeGPTWarning, stacklevel=3)
        return engine

    def cancel(self) -> None:
        """Stop the process, and close an engine that nobody took."""
        with self._lock:
            self._cancelled = True
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._thread.join()
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for success or failure; return whether one of them has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _follow(self) -> None:
        """Wait for the process, then open its engine; after a failure the old engine stays."""
        _, said = self._child.communicate()
        engine, failure = None, None
        if not self._cancelled and self._child.returncode == 0:
            try:
                engine = self._opener()
            except Exception as error:  # no error here may end a generation
                failure = str(error)
        elif not self._cancelled:
            lines = said.decode(errors="replace").strip().splitlines()
            failure = lines[-1] if lines else "its results were wrong"
        if failure is not None:
            logger.warning("no faster engine: %s", failure)
        with self._lock:
            self._engine, self._failure = engine, failure
