"""The benchmark's side of a worker process: start it, ask it, pause it between turns, stop it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Client", "WorkerError"]

START_S = 300.0
TURN_S = 300.0


class WorkerError(Exception):
    """A worker ended, did not answer in time, or answered that it failed."""


class Client:
    """One worker. A signal pauses it except while it handles a request.

    The thread pools of most peers spin while they wait for work. If several of them spun on two
    cores, they would slow down the peer whose turn it is, and spoil its measurement.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        """Start the process; its stderr goes to `log`."""
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self.pending = b""
        try:
            self.versions: dict[str, str] = self._answer(START_S)["versions"]
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def ask(self, request: dict) -> dict:
        """Wake the worker, send a request, return its answer, and pause it again."""
        self._signal(signal.SIGCONT)
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            answer = self._answer(TURN_S)
        except BrokenPipeError as error:
            raise WorkerError(f"the worker ended: {self._last_words()}") from error
        finally:
            self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process, paused or not."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _answer(self, patience_s: float) -> dict:
        for line in self._lines(patience_s):
            return json.loads(line)
        raise WorkerError(f"the worker ended: {self._last_words()}")

    def _lines(self, patience_s: float) -> Iterator[bytes]:
        """Yield whole lines until the pipe ends."""
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        deadline = time.monotonic() + patience_s
        while True:
            if b"\n" in self.pending:
                line, _, self.pending = self.pending.partition(b"\n")
                yield line
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise WorkerError(f"no answer within {patience_s:.0f} s")
            piece = os.read(pipe, 65536)
            if not piece:
                return
            self.pending += piece

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"
