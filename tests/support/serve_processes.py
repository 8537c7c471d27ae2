"""`edgegpt serve` as a process of its own, as systemd, Docker and load balancers see it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from http_servers import SOON, Served

__all__ = ["EDGEGPT", "ServeProcess", "serve_process"]

EDGEGPT = (sys.executable, "-m", "edgegpt")


class ServeProcess(Served):
    """A server that runs in a process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        super().__init__(None, port)  # type: ignore[arg-type]
        self.process = process

    def running(self, key: str = "") -> int:
        """Return how many texts it writes."""
        text = self.ask("/metrics", headers={"Authorization": f"Bearer {key}"})[1]
        (value,) = (
            row.split()[1] for row in text.splitlines() if row[:21] == "edgegpt_rows_running "
        )
        return int(float(value))


@contextmanager
def serve_process(
    command: Sequence[str | Path], environment: dict[str, str] | None = None
) -> Iterator[ServeProcess]:
    """Run `edgegpt serve` on a free port of 127.0.0.1 until the block ends; it must exit with 0.

    Args:
        command: with its program and without --port.
        environment: more variables.
    """
    process = subprocess.Popen(
        [*command, "--port", "0", "--json"],
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        url = json.loads(line)["url"]
        yield ServeProcess(process, int(url.rpartition(":")[2].partition("/")[0]))
        process.terminate()
        _, errors = process.communicate(timeout=SOON)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()
