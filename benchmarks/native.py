"""Measure the native engine beside ONNX Runtime on the CPU, side by side in one process.

    python benchmarks/native.py BUNDLE... [--threads 1 2] [--rounds 5] [--out FILE.json]

Each round decodes 40 tokens after 32 with some numbers of rows, and feeds a prompt of 250, on one
engine and then on the other. Of an encoder-decoder, rows are of sources of 32 tokens, 1 or 4 of
each, and a source of 250 is encoded in place of the prompt. The table has medians of tokens per
second over all rows, and of the ratios within a round, with the smallest and the largest. For one
row, whose step reads all weights, it also has their bytes per second, of those at which the machine
reads memory in the same round. Engines are built first if need be.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from edgegpt.runtime.bench.bandwidth import read_bandwidth, weight_bytes_per_token
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import Engine, Sources
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.native.prepare import build_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.machine import Machine

START, STEPS, WARM, PROMPT = 32, 40, 5, 250  # tokens
ROWS = (1, 2, 4, 8, 16)
BEAMS = ((1, 1), (1, 4), (16, 1), (16, 4))  # sources, and rows of each
BACKENDS = ("cpu", "native")
MEMORY = "bytes per second"


def decode(engine: Engine, rows: int, sources: int | None) -> float:
    """Return tokens per second of all rows."""
    ids = np.random.default_rng(rows).integers(0, engine.graph.vocab_size, (rows, START))
    read = None if sources is None else encode(engine, sources, START)
    with closing(engine.new_state(rows, START + WARM + STEPS, read)) as state:
        state.step(ids, np.zeros(rows, dtype=np.int64), np.full((rows, 1), START - 1))
        state.next_ids[:], state.past_len[:] = 1, START
        for step in range(WARM + STEPS):
            if step == WARM:
                begin = time.perf_counter()
            state.decode()
            state.past_len += 1
        return rows * STEPS / (time.perf_counter() - begin)


def encode(engine: Engine, count: int, length: int) -> Sources:
    """Encode random sources."""
    ids = np.random.default_rng(0).integers(0, engine.graph.vocab_size, (count, length))
    return engine.encode(ids, np.full(count, length))


def prompt(engine: Engine) -> float:
    """Return tokens per second of one prompt with the logits of its last token, or of a source."""
    begin = time.perf_counter()
    if engine.encoder is not None:
        encode(engine, 1, PROMPT)
        return PROMPT / (time.perf_counter() - begin)
    ids = np.random.default_rng(0).integers(0, engine.graph.vocab_size, (1, PROMPT))
    with closing(engine.new_state(1, PROMPT)) as state:
        state.step(ids, np.zeros(1, dtype=np.int64), np.array([[PROMPT - 1]]))
        state.logits()
        return PROMPT / (time.perf_counter() - begin)


def cells_of(engine: Engine) -> dict[str, Callable[[Engine], float]]:
    """Return what is measured, by its name in the table."""
    if engine.encoder is None:
        shapes = {str(rows): (rows, None) for rows in ROWS}
        last = "prompt"
    else:
        shapes = {f"{count} x {each}": (count * each, count) for count, each in BEAMS}
        last = "source"
    return {
        name: partial(decode, rows=shape[0], sources=shape[1]) for name, shape in shapes.items()
    } | {last: prompt}


def measure(bundle: Bundle, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return tokens per second of each cell, for each backend, round by round."""
    engines = {name: open_engine(bundle, EngineOptions(name, threads)) for name in BACKENDS}
    cells: dict[str, dict[str, list[float]]] = {}
    for cell, speed in cells_of(engines["native"]).items():
        found: dict[str, list[float]] = {name: [] for name in BACKENDS}
        for _ in range(rounds):
            if not cells:  # the first is of one row
                found.setdefault(MEMORY, []).append(read_bandwidth(Machine.here(), threads))
            for name, engine in engines.items():
                found[name].append(speed(engine))
        cells[cell] = found
    for engine in engines.values():
        engine.close()
    return cells


def share_of_memory(bundle: Bundle, found: dict[str, list[float]]) -> str:
    """Return how much of the memory's speed the native engine's single row reaches."""
    size = weight_bytes_per_token(bundle)
    shares = [each * size / most for each, most in zip(found["native"], found[MEMORY], strict=True)]
    return f"{told(shares, 2)} of {told([each / 1e9 for each in found[MEMORY]], 1)} GB/s"


def told(values: Sequence[float], digits: int) -> str:
    """Return a median with the smallest and the largest."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f}-{most:,.{digits}f})"


def main() -> None:
    """Measure, print tables, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = []
    for folder in asked.bundles:
        bundle = Bundle.open(folder)
        build_engine(bundle)
        for threads in asked.threads:
            cells = measure(bundle, threads, asked.rounds)
            precision = bundle.manifest.precision
            results.append(
                {"bundle": folder.name, "precision": precision, "threads": threads, "cells": cells}
            )
            print(f"\n{folder.name}, {precision}, {threads} threads\n")
            print("| rows | cpu, tokens/s | native, tokens/s | native / cpu |\n|---|---|---|---|")
            for cell, found in cells.items():
                ratios = [b / a for a, b in zip(found["cpu"], found["native"], strict=True)]
                speeds = [told(found[name], 0) for name in BACKENDS]
                print(f"| {cell} | {' | '.join(speeds)} | {told(ratios, 2)} |", flush=True)
            print(
                f"\nA single row reads {share_of_memory(bundle, next(iter(cells.values())))}.",
                flush=True,
            )
    if asked.out is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        body = {"date": date, "machine": vars(Machine.here()), "results": results}
        asked.out.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
