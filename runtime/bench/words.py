"""The facts of a bench in words, as the terminal and the page both show them."""

from .result import BenchResult, Spread

__all__ = ["EXPLANATION", "facts"]

EXPLANATION = (
    "First token: tokenizing, prefill and sampling; prefill tokens/s is over that time. p50 to "
    "p99: time per output token, detokenizing included. Host: what a step, a token for every row, "
    "takes outside the engine. Roofline: the time to read all weights and the used part of the "
    "cache once at the measured bandwidth, over the time a token took; weights that fit the "
    "processor's cache can pass 100%."
)


def facts(result: BenchResult) -> dict[str, str]:
    """Return what was measured, on what, and what holds for all cells."""
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    rates = Spread.of([rate / 1e9 for rate in result.bandwidths])
    first, *later = (f"{seconds * 1e3:.0f}" for seconds in result.load_s)
    peak = "unknown" if result.peak_memory is None else f"{result.peak_memory / 1e6:.0f} MB"
    repeats = len(result.cells[0].repeats)
    return {
        "bundle": f"{result.bundle[:12]}, {result.precision}, {result.graph} on {result.engine}",
        "machine": (
            f"{machine.cpu}, {machine.physical_cores} physical cores to use, "
            f"{machine.memory_bytes / 1e9:.1f} GB, {machine.system}, Python {machine.python}"
        ),
        "versions": versions,
        "date": result.date,
        "settings": (
            f"{result.threads} threads, context {result.context}, {repeats} repeats of "
            f"{result.tokens} tokens, {result.sampling}, prompts: {result.prompts}"
        ),
        "load": f"{first} ms at first, importing the engine included; then {', '.join(later)} ms",
        "peak memory": f"{peak} resident: interpreter, libraries, weights, cache, workspace",
        "bandwidth": (
            f"{result.bandwidth / 1e9:.1f} GB/s read by {result.threads} threads "
            f"(rounds: {rates.low:.1f}-{rates.high:.1f})"
        ),
        "read per token": (
            f"{result.weight_bytes / 1e6:.1f} MB of weights, and {result.slot_bytes / 1e3:.1f} kB "
            f"of cache for each earlier token of a row"
        ),
    }
