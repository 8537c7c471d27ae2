"""The protocol of every worker: one model, JSON lines in, JSON lines out.

    python workers/llama_cpp_.py FOLDER FORMAT THREADS SHAPE
    -> {"ready": true, "versions": {...}}
    <- {"measure": "decode", "batch": 1, "prompt": 32, "tokens": 128, "at_least_s": 0.5}
    -> {"seconds": 0.74, "calls": 1, "ids": [...]}
    <- {"measure": "prefill", "prompt": 512, "at_least_s": 0.5}
    -> {"seconds": 0.61, "calls": 1, "ids": [...]}
    <- {"measure": "search", "batch": 16, "prompt": 32, "tokens": 64, "beams": 4, "at_least_s": 0.5}

A turn repeats its measurement until `at_least_s` has passed and answers with the mean. Otherwise a
turn of a small model would be over before the processor has woken up. `ids` are the chosen tokens
of the first row; they show whether the peers computed the same model.
"""

import ctypes
import importlib.metadata
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))  # for shapes.py

from shapes import SHAPES, prompt_ids

__all__ = ["Model", "Pairs", "serve"]


class Pairs(Protocol):
    """The interface of a peer's script for an encoder-decoder."""

    def search(self, sources: list[list[int]], tokens: int, beams: int) -> tuple[float, list[int]]:
        """Time making `tokens` from each source; return seconds and the first one's ids."""


class Model(Protocol):
    """The interface for a decoder. Both methods return seconds and the first row's ids."""

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        """Feed the prompts and choose one token each, untimed; then time `tokens` greedy steps."""

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        """Time feeding the prompt to an empty cache and choosing the next token."""


def serve(
    load: Callable[[Path, str, int], Model],
    packages: list[str],
    load_pairs: Callable[[Path, str, int], Pairs] | None = None,
) -> None:
    """Load the model that the command line names, and answer requests until stdin ends."""
    folder, format_name, threads, shape_name = sys.argv[1:]
    shape = SHAPES[shape_name]
    _die_with_parent()
    # Libraries print to stdout, so the answers get a copy of it, and stdout goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    model = (load_pairs if shape.pairs else load)(Path(folder), format_name, int(threads))
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"ready": True, "versions": versions}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        rows = [prompt_ids(shape, request["prompt"], row) for row in range(request.get("batch", 1))]

        def measure(request: dict = request, rows: list = rows) -> tuple[float, list[int]]:
            if request["measure"] == "search":
                return model.search(rows, request["tokens"], request["beams"])
            if request["measure"] == "decode":
                return model.decode(rows, request["tokens"])
            return model.prefill(rows[0])

        try:
            answer = _turn(measure, request["at_least_s"])
        except Exception as error:  # a peer may raise anything; the cell records it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


def _die_with_parent() -> None:
    """Ask Linux to kill this process if run.py is killed: a paused one would stay forever."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _turn(measure: Callable[[], tuple[float, list[int]]], at_least_s: float) -> dict:
    seconds: list[float] = []
    started = time.perf_counter()
    while not seconds or time.perf_counter() - started < at_least_s:
        once, ids = measure()
        seconds.append(once)
    return {"seconds": sum(seconds) / len(seconds), "calls": len(seconds), "ids": ids}
