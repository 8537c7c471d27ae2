"""`edgegpt serve` in a process of its own, as a device runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from http_servers import SOON, Served

__all__ = ["Running", "process_of"]

# Times that a test can wait for; they take the place of what the modules have.
HURRIED = """
from functools import partial
from edgegpt.runtime.server import answers, run, service
answers.PATIENCE = 1.0
run.HALF_PATIENCE, run.KEEP_ALIVE, run.LAST_ANSWERS, run.LOOKS, run.LAST_WORDS = 1, 1, 1, 0.05, 1
run.SEND_BUFFER = 4096
service.Limits = partial(service.Limits, seconds=1.0)
"""
COMMAND = "import sys\nfrom edgegpt.cli import main\nsys.exit(main())"


@dataclass
class Running(Served):
    """A process that serves."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def resident(self) -> int:
        """Bytes of memory that the process has."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024

    @property
    def descriptors(self) -> int:
        """How many files and connections the process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def idle(self) -> bool:
        """Whether no text is written or waits."""
        return not (self.metric("edgegpt_rows_running") or self.metric("edgegpt_requests_waiting"))

    @property
    def taken(self) -> int:
        """How many texts were asked for and not refused."""
        found = self.metrics
        now = found["edgegpt_rows_running"] + found["edgegpt_requests_waiting"]
        return int(now + found.get('edgegpt_texts_total{end="length"}', 0.0))

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return the exit code, and what the process said."""
        return self.process.wait(SOON), self.log.read_text()


@contextmanager
def process_of(bundle: Path, log: Path, *options: str, before: str = "") -> Iterator[Running]:
    """Serve a bundle under the name "tiny" until the block ends.

    `log` gets what it says on stderr; `before`: Python that runs in the process before the command.
    """
    command = [sys.executable, "-c", f"{before}\n{COMMAND}", "serve", str(bundle), "--json"]
    command += ["--name", "tiny", "--threads", "1", *options]
    command += [] if "--port" in options else ["--port", "0"]
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            port = int(json.loads(line)["url"].removesuffix("/v1").rpartition(":")[2])
            yield Running(None, port, process, log)
        finally:
            process.kill()
