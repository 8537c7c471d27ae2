"""Who runs what: one table of lowerings by backend, and the questions that are asked of it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..bundle.manifest import Graph, Manifest
from ..bundle.vocabulary import (
    FLOATS,
    PRECISIONS,
    QUANTISED,
    Dtype,
    Lowering,
    Part,
    Precision,
)

__all__ = [
    "BACKENDS",
    "ENGINES",
    "SUPPORT",
    "TENSORRT",
    "Support",
    "Version",
    "fitting",
    "lowerings_of",
    "numbers",
    "obstacle",
    "oldest",
    "serving",
]

Version = tuple[int, ...]

TENSORRT = ("tensorrt", "tensorrt-rtx")
BACKENDS = ("cpu", "cuda", *TENSORRT)
# Backend -> the package whose version counts.
ENGINES = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}


@dataclass(frozen=True)
class Support:
    """How a backend runs a lowering.

    Attributes:
        since: the first version of its engine that computes the lowering rightly.
        until: the first version that is given another lowering instead; None: there is none.
        parts: of the graphs that generate there, the best first.
        precisions: of the bundles that it runs.
        caches: dtypes of the caches that it has kernels for.
        lacks: says of a `graph` of another `precision` or cache why it is not run.
        replays: the first version whose replayed CUDA graphs are right; None: none are made.
    """

    since: Version
    until: Version | None = None
    parts: tuple[Part, ...] = ("decoder",)
    precisions: tuple[Precision, ...] = PRECISIONS
    caches: tuple[Dtype, ...] = FLOATS
    lacks: str = "{graph} is in {precision}, which this backend does not run in its lowering"
    replays: Version | None = None


def _on_cpu(since: Version) -> Support:
    return Support(
        since,
        precisions=tuple(one for one in PRECISIONS if one != "bfloat16"),
        lacks="onnxruntime runs no {precision} on a CPU, and {graph} is in {precision}: use a GPU",
    )


FLOAT_ONLY: tuple[Precision, ...] = ("float32", "float16", "bfloat16")
INTEGERS: tuple[Precision, ...] = ("int8", "int4")
# CUDA and TensorRT round no activations, so that an exact graph generates as well there.
ALSO_EXACT: tuple[Part, ...] = ("decoder", "exact")

# (backend, lowering) -> how; the best lowering of a backend first. Older versions lack operators of
# the lowering, or compute them wrongly.
SUPPORT: dict[tuple[str, Lowering], Support] = {
    ("cpu", "ort"): _on_cpu((1, 25)),
    ("cpu", "standard"): _on_cpu((1, 25)),
    ("cpu", "legacy"): _on_cpu((1, 14)),
    # Before these versions, a replayed step reads again what it once copied from the host's memory,
    # which is something else by then (microsoft/onnxruntime, pull requests 32120 and 32121).
    ("cuda", "ort"): Support(
        (1, 25),
        parts=ALSO_EXACT,
        # GroupQueryAttention has no float32 kernel there (up to onnxruntime 1.31).
        caches=("float16", "bfloat16"),
        lacks="CUDA has no kernel for the fused attention of {graph} in this precision",
        replays=(1, 31),
    ),
    # Before 1.28 the provider lacks operators of opset 24, and would leave them to the CPU.
    ("cuda", "standard"): Support((1, 28), parts=ALSO_EXACT, replays=(1, 30)),
    # From 10.15 on the parser reads TensorScatter and Attention. Execution by named tensors and
    # strong typing are there from 10.3 on.
    ("tensorrt", "standard"): Support((10, 15), precisions=FLOAT_ONLY),
    ("tensorrt", QUANTISED): Support((10, 15), parts=("exact",), precisions=INTEGERS),
    ("tensorrt", "legacy"): Support((10, 3), until=(10, 15), precisions=FLOAT_ONLY),
    # Layers that update a KV cache are there from 1.4 on.
    ("tensorrt-rtx", "standard"): Support((1, 4), precisions=FLOAT_ONLY),
    ("tensorrt-rtx", QUANTISED): Support((1, 4), parts=("exact",), precisions=INTEGERS),
}


def numbers(version: str) -> Version:
    """Return the leading numbers of a version: (1, 23, 2) of 1.23.2+cu126, () if it has none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def lowerings_of(
    backend: str, version: str | None = None, precision: Precision | None = None
) -> list[Lowering]:
    """Return the lowerings that a version of a backend's engine runs, the best first.

    Args:
        backend: one of `BACKENDS`.
        version: None: any.
        precision: of the bundle; None: any.
    """
    return [
        lowering
        for (owner, lowering), support in SUPPORT.items()
        if owner == backend
        and precision in (None, *support.precisions)
        and (version is None or _is_within(numbers(version), support))
    ]


def oldest(backend: str, precision: Precision | None = None) -> Version:
    """Return the first version of a backend's engine that runs bundles of `precision`; None: any.

    The backend must run such bundles at all.
    """
    return min(SUPPORT[backend, name].since for name in lowerings_of(backend, None, precision))


def obstacle(backend: str, version: str | None, graph: Graph, precision: Precision) -> str | None:
    """Return why a version of a backend's engine does not run a graph, or None if it does.

    Args:
        backend: one of `BACKENDS`.
        version: of its engine; None: any.
        graph: of a bundle.
        precision: of that bundle.
    """
    support, engine = SUPPORT.get((backend, graph.lowering)), ENGINES[backend]
    if support is None:
        return f"the backend {backend} does not run the lowering {graph.lowering}"
    caches = {port.dtype for port in graph.caches()}
    if precision not in support.precisions or not caches.issubset(support.caches):
        return support.lacks.format(graph=graph.name, precision=precision)
    if version is None or _is_within(numbers(version), support):
        return None
    needed = f"{_dotted(support.since)} or later"
    if numbers(version) >= support.since and support.until is not None:
        needed = f"older than {_dotted(support.until)}"
    return f"the graph {graph.name} needs {engine} {needed}; {version} is installed"


def serving(manifest: Manifest, backend: str, part: Part = "decoder") -> list[Graph]:
    """Return the graphs that do what `part` does on some version of a backend, the best first."""
    return [
        graph
        for lowering in lowerings_of(backend)
        for own in (SUPPORT[backend, lowering].parts if part == "decoder" else (part,))
        for graph in manifest.graphs
        if (graph.lowering, graph.part) == (lowering, own)
    ]


def fitting(
    manifest: Manifest, backend: str, version: str | None, part: Part = "decoder"
) -> list[Graph]:
    """Return the graphs that do what `part` does on this version: one a lowering, the best first.

    Args:
        manifest: of the bundle.
        backend: one of `BACKENDS`.
        version: of its engine; None: any.
        part: what the graph is wanted for.
    """
    best: dict[Lowering, Graph] = {}
    for graph in serving(manifest, backend, part):
        if obstacle(backend, version, graph, manifest.precision) is None:
            best.setdefault(graph.lowering, graph)
    return list(best.values())


def _is_within(version: Version, support: Support) -> bool:
    return version >= support.since and (support.until is None or version < support.until)


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
