"""Run the bench: every batch and depth once to warm up, then several rounds of all of them.

Because the cells are interleaved, a slow spell of the machine affects all of them, and the spread
over the rounds shows it.
"""

import datetime
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..bundle.bundle import Bundle
from ..cuda.shown import ON_CPU
from ..doctor.probe import LocalProbe
from ..engines.base import EngineInfo
from ..engines.choice import open_engine
from ..engines.memory import memory_needed, widening
from ..engines.support import NATIVE
from ..errors import InvalidInputError
from ..generation.begin import Begin
from ..language_model import LanguageModel
from ..machine import Machine, fast_cores, peak_memory
from ..progress import Progress
from ..proof.auto import settle
from ..proof.receipt_store import warn_if_unproved
from .bandwidth import (
    cache_bytes_per_slot,
    read_bandwidth,
    weight_bytes_per_token,
)
from .energy import Meter, find_meter, total
from .gpu import Gpu
from .plan import Plan
from .power import Power
from .prompts import Prompts, prompts_for
from .repeat import Runner
from .result import BenchResult, Cell, Repeat

__all__ = ["measure"]

LOADS = 3


def measure(path: str | Path, plan: Plan, version: str, progress: Progress) -> BenchResult:
    """Run the whole bench in this process.

    Args:
        path: folder of the bundle.
        plan: what to measure.
        version: edgegpt's own version, for the record.
        progress: called before each run.

    Raises:
        BundleError: as `edgegpt.load` does.
        EngineError: as `edgegpt.load` does, and if the GPU or its energy cannot be measured.
        InvalidInputError: if the plan does not fit the bundle's context or the memory.
    """
    machine, threads = Machine.here(), plan.engine.threads or fast_cores()
    progress("loading", 0, 1)
    with ExitStack() as stack:
        model, load_s, gpu = _load(path, plan, threads, stack)
        stack.enter_context(model)
        context = longest_context(model)
        _check_memory(model, plan.cells(context), machine, gpu)
        meter, energy = find_meter(gpu.bus_id if gpu else None)
        if meter is not None:
            stack.enter_context(meter)
        prompts = prompts_for(model.bundle, Begin(model.bundle))
        rounds = _Rounds(model, plan, prompts, progress, gpu, meter)
        bandwidth = gpu.copy_bandwidth if gpu else partial(read_bandwidth, machine, threads)
        measured = _measured(rounds, plan.repeats, bandwidth, gpu, energy)
        manifest, graph, engine = model.bundle.manifest, model.engine.graph, model.engine.info
        return BenchResult(
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            machine=machine,
            versions={"edgegpt": version, engine.name: engine.version, "numpy": np.__version__},
            threads=threads,
            bundle=manifest.id,
            precision=manifest.precision,
            graph=graph.name,
            lowering=graph.lowering,
            engine=_engine_in_words(engine, plan),
            context=model.context,
            tokens=plan.steps(context),
            sampling=_in_words(plan),
            prompts=prompts.kind,
            weight_bytes=weight_bytes_per_token(model.bundle, graph)
            * widening(model.bundle, _backend(engine)),
            slot_bytes=cache_bytes_per_slot(graph),
            load_s=load_s,
            gpu=gpu.words if gpu else None,
            bandwidths=measured.bandwidths,
            peak_memory=measured.peak_memory,
            gpu_memory=measured.gpu_memory,
            energy=measured.energy,
            cells=measured.cells,
            power=measured.power,
            model=model.bundle.name,
        )


def longest_context(model: LanguageModel) -> int:
    """Return how many tokens a prompt and what follows may have, or a source and its text."""
    encoder = model.bundle.manifest.model_info.encoder
    return model.context if encoder is None else min(model.context, encoder.block_size)


@dataclass(frozen=True)
class _Measured:
    """The results of the rounds; see `BenchResult` for the fields."""

    bandwidths: list[float]
    peak_memory: int | None
    gpu_memory: int | None
    energy: str
    cells: list[Cell]
    power: Power


def _measured(
    rounds: "_Rounds",
    repeats: int,
    bandwidth: Callable[[], float],
    gpu: Gpu | None,
    energy: str,
) -> _Measured:
    """Run one round to warm up, then `repeats` rounds, each after a reading of the bandwidth."""
    rounds.run()
    peak = peak_memory()  # before the bandwidth is measured, which takes much memory
    taken = gpu.taken_memory() if gpu else None
    bandwidths, timed = [], []
    for _ in range(repeats):
        bandwidths.append(bandwidth())
        timed.append(rounds.run())
    power = Power.of(LocalProbe())
    if any(total(one.joules) <= 0 for results in timed for one in results if one.joules):
        timed = [[replace(one, joules={}) for one in results] for results in timed]
        energy = "not measured: the meter stood still"
    cells = [
        Cell(*cell, [results[index] for results in timed])
        for index, cell in enumerate(rounds.cells)
    ]
    return _Measured(bandwidths, peak, taken, energy, cells, power)


class _Rounds:
    """All cells of a plan, ready to run round by round."""

    def __init__(
        self,
        model: LanguageModel,
        plan: Plan,
        prompts: Prompts,
        progress: Progress,
        gpu: Gpu | None,
        meter: Meter | None,
    ) -> None:
        self.cells = plan.cells(longest_context(model))
        self.rows = [prompts.rows(batch, depth) for batch, depth in self.cells]
        clock = gpu.clock if gpu else None
        self.runner = Runner(model, plan.sampling, plan.steps(longest_context(model)), clock, meter)
        self.progress, self.done = progress, 0
        self.total = len(self.cells) * (1 + plan.repeats)

    def run(self) -> list[Repeat]:
        """Run every cell once, in order."""
        results = []
        for (batch, depth), rows in zip(self.cells, self.rows, strict=True):
            warm = self.done >= len(self.cells)
            what = "measuring" if warm else "warming up"
            self.progress(f"{what}: batch {batch}, depth {depth}", self.done, self.total)
            results.append(self.runner.run(rows, depth, with_energy=warm))
            self.done += 1
        self.progress("done", self.done, self.total)
        return results


def _check_memory(
    model: LanguageModel, cells: list[tuple[int, int]], machine: Machine, gpu: Gpu | None
) -> None:
    """Refuse a batch that would make the machine swap, or that does not fit the GPU's memory."""
    batch = max(batch for batch, _ in cells)
    info = model.engine.info
    needed = memory_needed(
        model.bundle, batch, model.context, _backend(info), half_cache=info.half_cache
    ).total
    room, where = machine.memory_bytes, "this machine has"
    if gpu is not None and not gpu.device.shares_memory:
        room, where = gpu.device.free_memory, "the GPU had free"
    if needed > room > 0:
        raise InvalidInputError(
            f"a batch of {batch} with a context of {model.context} needs about "
            f"{needed / 1e9:.1f} GB and {where} {room / 1e9:.1f} GB; "
            f"choose a smaller batch or context"
        )


def _load(
    path: str | Path, plan: Plan, threads: int, stack: ExitStack
) -> tuple[LanguageModel, list[float], Gpu | None]:
    """Open the bundle several times, one after the other; return the last one and the seconds.

    Each time includes everything that `edgegpt.load` does. The first opening has no device clock:
    if the engine does not work at all, its own error is the clearest. On a GPU the later ones time
    their steps on the device.
    """
    seconds: list[float] = []
    gpu = None
    while True:
        begin = time.perf_counter()
        bundle = Bundle.open(path)
        options = settle(bundle, plan.engine).options
        if options.backend in ON_CPU:
            options = replace(options, threads=threads)
        engine = open_engine(bundle, options, clock=gpu.clock if gpu else None)
        model = LanguageModel(bundle, engine, plan.context)
        seconds.append(time.perf_counter() - begin)
        if len(seconds) == LOADS:
            warn_if_unproved(bundle, engine)
            return model, seconds, gpu
        model.close()
        if gpu is None and options.backend not in ON_CPU:
            gpu = Gpu(stack)


def _backend(engine: EngineInfo) -> str:
    return NATIVE if engine.name == NATIVE else engine.device


def _engine_in_words(engine: EngineInfo, plan: Plan) -> str:
    plain = engine.device.startswith("cuda") and not plan.engine.cuda_graph
    return f"{engine.name} ({engine.device}{', no CUDA graphs' if plain else ''})"


def _in_words(plan: Plan) -> str:
    sampling = plan.sampling
    if sampling.temperature == 0:
        return "greedy"
    limits = f", top-k {sampling.top_k}" if sampling.top_k else ""
    limits += f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    return f"temperature {sampling.temperature:g}{limits}"
