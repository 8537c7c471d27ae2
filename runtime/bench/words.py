"""The facts of a bench in words, as the terminal and the page both show them."""

from ..quantity import quantity
from .result import BenchResult, Spread

__all__ = ["explanation", "facts"]

EXPLANATION = (
    "First token: tokenizing, prefill and sampling; prefill tokens/s is over that time. p50 to "
    "p99: time per output token, detokenizing included. Host: what a step, a token for every row, "
    "takes outside the engine. Roofline: the time to read all weights and the used part of the "
    "cache once at the measured bandwidth, over the time a token took; weights that fit the "
    "processor's cache can pass 100%."
)
ON_A_GPU = (
    " Device: the network's part of a step between two events on the GPU's stream, waiting for the "
    "host included; device %: the roofline over that time. Host is then what a step takes beyond "
    "it."
)
ENERGY = " mJ/token: while decoding without a pause, what the device draws when idle included."


def explanation(result: BenchResult) -> str:
    """Return what the columns of this result mean."""
    repeat = result.cells[0].repeats[0]
    on_a_gpu = ON_A_GPU if repeat.device_s else ""
    return EXPLANATION + on_a_gpu + (ENERGY if repeat.joules else "")


def facts(result: BenchResult) -> dict[str, str]:
    """Return the facts by name: the bundle, the machine, the settings, and totals of all cells."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    first, *later = (f"{seconds * 1e3:.0f}" for seconds in result.load_s)
    repeats = len(result.cells[0].repeats)
    gpu = {} if result.gpu is None else {"GPU": result.gpu}
    threads = f"{quantity(result.threads, 'thread')}, " if result.gpu is None else ""
    return {
        "model": result.model or "not recorded",
        "bundle": f"{result.bundle[:12]}, {result.precision}, {result.graph} on {result.engine}",
        "machine": (
            f"{machine.cpu}, {quantity(machine.physical_cores, 'physical core')} to use, "
            f"{machine.memory_bytes / 1e9:.1f} GB, {machine.system}, Python {machine.python}"
        ),
        **gpu,
        "power": "not recorded" if result.power is None else result.power.words(),
        "versions": versions,
        "date": result.date,
        "settings": (
            f"{threads}context {result.context}, {quantity(repeats, 'repeat')} of "
            f"{quantity(result.tokens, 'token')}, {result.sampling}, prompts: {result.prompts}"
        ),
        "load": f"{first} ms at first, importing the engine included; then {', '.join(later)} ms",
        "peak memory": _peak(result),
        "bandwidth": _bandwidth(result),
        "energy": result.energy,
        "read per token": (
            f"{result.weight_bytes / 1e6:.1f} MB of weights, and {result.slot_bytes / 1e3:.1f} kB "
            f"of cache for each earlier token of a row"
        ),
    }


def _peak(result: BenchResult) -> str:
    peak = "unknown" if result.peak_memory is None else f"{result.peak_memory / 1e6:.0f} MB"
    if result.gpu_memory is None:
        return f"{peak} resident: interpreter, libraries, weights, cache, workspace"
    return (
        f"{result.gpu_memory / 1e6:.0f} MB of the GPU's: weights, cache, workspace, and what other "
        f"processes took meanwhile; {peak} resident on the host"
    )


def _bandwidth(result: BenchResult) -> str:
    rates = Spread.of([rate / 1e9 for rate in result.bandwidths])
    how = "copied within the GPU, read and written bytes counted"
    if result.gpu is None:
        how = f"read by {quantity(result.threads, 'thread')}"
    best = f"{result.bandwidth / 1e9:.1f} GB/s {how}"
    return f"{best} (rounds: {rates.low:.1f}-{rates.high:.1f})"
