"""A faster engine, made ready while a slower one is at work.

A TensorRT engine takes minutes to build. So `auto` starts at once on ONNX Runtime, and a process of
its own runs `edgegpt verify`, which builds the engine, keeps it in the user's cache, and replays
the golden vectors on it. Only if that passed is the engine opened here, and the next generation
uses it. A process, because a build takes the interpreter's lock and memory, and because one that
fails, or is stopped with its parent, must not take the parent with it.
"""

import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence

from .bundle import Bundle
from .engines.base import Engine
from .errors import EdgeGPTError, EdgeGPTWarning

__all__ = ["Upgrade", "proving_command"]

STOP_S = 10.0  # for a child that was asked to end; a build ends between two of its steps


def proving_command(bundle: Bundle, backend: str) -> list[str]:
    """Return the command that builds and verifies the backend's engine; 0 if it passed."""
    options = ["--backend", backend, "--json"]
    return [sys.executable, "-m", "edgegpt", "verify", str(bundle.folder.absolute()), *options]


class Upgrade:
    """One attempt to get a better engine. Safe to use from several threads."""

    def __init__(self, command: Sequence[str], opener: Callable[[], Engine]) -> None:
        """Start.

        Args:
            command: a process that makes the engine and proves it; exit code 0 if it did.
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
        """Return the engine once it is there, a single time. Warns once if there will be none."""
        with self._lock:
            engine, self._engine = self._engine, None
            failure, self._failure = self._failure, None
        if failure is not None:
            warnings.warn(f"no faster engine: {failure}", EdgeGPTWarning, stacklevel=3)
        return engine

    def cancel(self) -> None:
        """Give up: stop the process, and close an engine that nobody took."""
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
        """Wait until it has succeeded or failed; return whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _follow(self) -> None:
        """Wait for the process, then open its engine; what fails leaves the old engine at work."""
        _, said = self._child.communicate()
        engine, failure = None, None
        if not self._cancelled and self._child.returncode == 0:
            try:
                engine = self._opener()
            except EdgeGPTError as error:
                failure = str(error)
        elif not self._cancelled:
            lines = said.decode(errors="replace").strip().splitlines()
            failure = lines[-1] if lines else "its results were wrong"
        with self._lock:
            self._engine, self._failure = engine, failure
