"""Where the time of a decode step on CUDA goes: python benchmarks/gpu/parts.py BUNDLE [ROWS]

Microseconds of a step as the generation loop runs it, of its graph alone, of graphs launched one
after the other without waiting (which is what the device takes), and of the same step kernel by
kernel; then the kernels by name, as PyTorch's profiler sees them. It needs the extras cuda and
train.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.cuda import CudaEngine, CudaState
from edgegpt.runtime.engines.ort.device_steps import DeviceStep
from edgegpt.runtime.errors import EdgeGPTError

CONTEXT, PROMPT = 256, 32  # tokens
REPEATS, IN_A_ROW, PROFILED = 200, 50, 20
NAME = 100  # characters of a kernel's name


def microseconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the mean time of `work`, after two runs to warm up."""
    work(), work()
    begin = time.perf_counter()
    for _ in range(repeats):
        work()
    return 1e6 * (time.perf_counter() - begin) / repeats


def fed_state(engine: CudaEngine, rows: int) -> CudaState:
    """Return a state that has read a prompt and decoded a few tokens: its step is captured."""
    state = engine.new_state(rows, CONTEXT)
    ids = np.ones((rows, PROMPT), dtype=np.int64)
    state.step(ids, np.zeros(rows, dtype=np.int64), np.full((rows, 1), PROMPT - 1))
    for past in range(PROMPT, PROMPT + 8):
        state.next_ids[:], state.past_len[:] = 1, past
        state.decode()
    return state


def times(state: CudaState, step: DeviceStep) -> Iterable[tuple[str, float]]:
    """Yield what is timed, and how long it takes."""
    memory, recording = step.memory, step.recording

    def plainly() -> None:
        step._enqueue()
        memory.wait()

    yield "a step of the loop", microseconds(state.decode)
    yield "the same, kernel by kernel", microseconds(plainly)
    if recording is None:
        print("the step was not captured")
        return

    def launched() -> None:
        recording.launch()
        memory.wait()

    def in_a_row() -> None:
        for _ in range(IN_A_ROW):
            recording.launch()
        memory.wait()

    yield "its graph, launched and waited for", microseconds(launched)
    yield "its graph, one after the other", microseconds(in_a_row, 10) / IN_A_ROW


def print_kernels(state: CudaState) -> None:
    """Print the time of all kernels of a step, and the longest by name."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED):
            state.decode()
        torch.cuda.synchronize()
    spent: dict[str, list[float]] = defaultdict(list)
    for event in found.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.name].append(event.time_range.elapsed_us())
    count = sum(map(len, spent.values())) / PROFILED
    print(f"{sum(map(sum, spent.values())) / PROFILED:9.1f} us in {count:.0f} kernels and copies")
    for name in sorted(spent, key=lambda name: -sum(spent[name]))[:20]:
        each = len(spent[name]) / PROFILED
        print(f"{sum(spent[name]) / PROFILED:9.1f} us, {each:5.1f} x  {name[:NAME]}")


def main() -> None:
    """Measure the bundle that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("rows", type=int, nargs="?", default=1)
    args = parser.parse_args()
    try:
        report(Bundle.open(args.bundle), args.rows)
    except EdgeGPTError as error:
        parser.exit(1, f"error: {error}\n")


def report(bundle: Bundle, rows: int) -> None:
    """Print all of it."""
    engine = open_engine(bundle, EngineOptions("cuda"))
    assert isinstance(engine, CudaEngine)
    with fed_state(engine, rows) as state:
        print(f"{bundle.manifest.precision}, {engine.graph.name}, {rows} rows")
        for name, taken in times(state, state.buffers.single(rows)):
            print(f"{taken:9.1f} us  {name}")
        print_kernels(state)
    engine.close()


if __name__ == "__main__":
    main()
