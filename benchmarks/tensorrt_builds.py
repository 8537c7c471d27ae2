"""Which graphs TensorRT for RTX reads and builds, with sizes and seconds, as a table.

    python benchmarks/tensorrt_builds.py BUNDLE... [--compute-capability 8.9] [--json]

It needs `tensorrt_rtx` but no GPU. Each graph is built in a process of its own; no plan is kept.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.derived_weights import graph_with_weights
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.bundle.vocabulary import QUANTISED
from edgegpt.runtime.engines.tensorrt.builder import build_plan
from edgegpt.runtime.engines.tensorrt.flavour import import_flavour
from edgegpt.runtime.engines.tensorrt.log import Log
from edgegpt.runtime.engines.tensorrt.network import parse_network
from edgegpt.runtime.engines.tensorrt.profiles import Limits
from edgegpt.runtime.engines.tensorrt.target import Target
from edgegpt.runtime.errors import EdgeGPTError
from edgegpt.runtime.machine import peak_memory


@dataclass(frozen=True)
class Row:
    """One graph: whether it was read and built, the plan's bytes, and the seconds it took."""

    bundle: str
    graph: str
    precision: str
    parsed: bool
    built: bool
    size: int
    seconds: float
    peak: int
    error: str = ""


def measure(bundle: Bundle, graph: Graph, capability: str) -> Row:
    """Read and build one graph in this process."""
    flavour = import_flavour("tensorrt-rtx")
    limits = Limits.of(bundle.manifest.model_info, None, None)
    parsed, size, error = False, 0, ""
    begin = time.perf_counter()
    try:
        log = Log(flavour)
        builder = flavour.module.Builder(log.logger)
        with graph_with_weights(bundle, graph) as path:
            parse_network(flavour, log, builder, path, graph, limits.max_context)
        parsed = True
        begin = time.perf_counter()
        size = len(build_plan(flavour, bundle, graph, limits, Target(capability)))
    except EdgeGPTError as problem:
        error = str(problem)
    seconds = time.perf_counter() - begin
    name, precision = bundle.folder.name, bundle.manifest.precision
    peak = peak_memory() or 0
    return Row(name, graph.name, precision, parsed, size > 0, size, seconds, peak, error)


def in_own_process(bundle: Path, graph: str, capability: str) -> Row:
    """Run `measure` in a subprocess, so that its memory or a crash does not affect other graphs."""
    own = [sys.executable, __file__, str(bundle), "--graph", graph, "--compute-capability"]
    done = subprocess.run([*own, capability], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{bundle} {graph}: {done.stderr}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("bundles", nargs="+", type=Path)
    options.add_argument("--compute-capability", default="8.9")
    options.add_argument("--json", action="store_true")
    options.add_argument("--graph", help=argparse.SUPPRESS)
    given = options.parse_args()
    capability = given.compute_capability
    if given.graph:
        bundle = Bundle.open(given.bundles[0])
        (graph,) = [graph for graph in bundle.manifest.graphs if graph.name == given.graph]
        print(json.dumps(asdict(measure(bundle, graph, capability))))
        return
    rows = [
        in_own_process(path, graph.name, capability)
        for path in given.bundles
        for graph in Bundle.open(path).manifest.graphs
        if graph.part in ("decoder", "encoder") or graph.lowering == QUANTISED
    ]
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print("| bundle | graph | precision | parsed | built | plan, MB | seconds | peak RSS, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        yes = {True: "yes", False: "no"}
        size = f"{row.size / 1e6:.1f}" if row.built else ""
        print(
            f"| {row.bundle} | {row.graph} | {row.precision} | {yes[row.parsed]} | "
            f"{yes[row.built]} | {size} | {row.seconds:.1f} | {row.peak / 1e6:.0f} |"
        )
    for row in rows:
        if row.error:
            print(f"{row.bundle} {row.graph} {row.precision}: {row.error}")


if __name__ == "__main__":
    main()
