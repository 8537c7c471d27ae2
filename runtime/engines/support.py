"""Which backend runs which lowering: one table, and functions that look things up in it."""

import platform
import re
import sys
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
    "NATIVE",
    "SUPPORT",
    "TENSORRT",
    "Support",
    "Version",
    "fitting",
    "lowerings_of",
    "misfit",
    "numbers",
    "obstacle",
    "oldest",
    "serving",
]

Version = tuple[int, ...]

TENSORRT = ("tensorrt", "tensorrt-rtx")
NATIVE = "native"  # compiled for the model; it reads no graph, so nothing below is about it
BACKENDS = ("cpu", "cuda", *TENSORRT)
WITH_ENCODERS = ("cpu", NATIVE)  # backends that run encoder-decoders
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
        since: the first version of its engine that computes the lowering correctly.
        until: the first version that gets another lowering instead; None: there is none.
        parts: parts of the graphs that it uses to generate, best first.
        precisions: precisions of the bundles that it runs.
        caches: dtypes of the caches for which it has kernels.
        lacks: message for a `graph` of another `precision` or cache dtype, which it does not run.
        replays: the first version that replays CUDA graphs correctly; None: it never replays.
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
        lacks="onnxruntime runs no {precision} on a CPU, and {graph} is in {precision}: use a GPU, "
        "or compile an engine for this processor (edgegpt build --backend native)",
    )


FLOAT_ONLY: tuple[Precision, ...] = ("float32", "float16", "bfloat16")
INTEGERS: tuple[Precision, ...] = ("int8", "int4")
# CUDA never rounds activations to integers, so it can also generate with an "exact" graph.
ALSO_EXACT: tuple[Part, ...] = ("decoder", "exact")

# (backend, lowering) -> its support; the best lowering of a backend first. Versions before `since`
# lack operators of the lowering, or compute them wrongly.
SUPPORT: dict[tuple[str, Lowering], Support] = {
    ("cpu", "ort"): _on_cpu((1, 25)),
    ("cpu", "standard"): _on_cpu((1, 25)),
    ("cpu", "legacy"): _on_cpu((1, 14)),
    # Versions before `replays` captured a copy from host memory. At each replay they copy from the
    # same address, which by then holds something else (microsoft/onnxruntime, pull requests 32120
    # and 32121).
    ("cuda", "ort"): Support(
        (1, 25),
        parts=("half", *ALSO_EXACT),
        # GroupQueryAttention has no float32 kernel on CUDA (up to onnxruntime 1.31).
        caches=("float16", "bfloat16"),
        lacks="CUDA has no kernel for the fused attention of {graph} in this precision",
        replays=(1, 31),
    ),
    # Before 1.28 the provider lacks operators of opset 24, and would run them on the CPU.
    ("cuda", "standard"): Support((1, 28), parts=ALSO_EXACT, replays=(1, 31)),
    # The parser of 10.15 and later reads TensorScatter and Attention. 10.3 and later has execution
    # by named tensors and strong typing.
    ("tensorrt", "standard"): Support((10, 15), precisions=FLOAT_ONLY),
    ("tensorrt", QUANTISED): Support((10, 15), parts=("exact",), precisions=INTEGERS),
    ("tensorrt", "legacy"): Support((10, 3), until=(10, 15), precisions=FLOAT_ONLY),
    # 1.4 and later has layers that update a KV cache.
    ("tensorrt-rtx", "standard"): Support((1, 4), precisions=FLOAT_ONLY),
    ("tensorrt-rtx", QUANTISED): Support((1, 4), parts=("exact",), precisions=INTEGERS),
}


def numbers(version: str) -> Version:
    """Return the leading numbers of a version: (1, 23, 2) for 1.23.2+cu126, () if it has none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def lowerings_of(
    backend: str, version: str | None = None, precision: Precision | None = None
) -> list[Lowering]:
    """Return the lowerings that a version of a backend's engine runs, best first.

    Args:
        backend: one of `BACKENDS`.
        version: version of the engine; None: any.
        precision: precision of the bundle; None: any.
    """
    return [
        lowering
        for (owner, lowering), support in SUPPORT.items()
        if owner == backend
        and precision in (None, *support.precisions)
        and (version is None or _is_within(numbers(version), support))
    ]


def oldest(backend: str, precision: Precision | None = None) -> Version:
    """Return the first version of a backend's engine that runs bundles of `precision` (None: any).

    Some version of the backend must run bundles of this precision.
    """
    return min(SUPPORT[backend, name].since for name in lowerings_of(backend, None, precision))


def obstacle(backend: str, version: str | None, graph: Graph, precision: Precision) -> str | None:
    """Return why a version of a backend's engine does not run a graph, or None if it does.

    Args:
        backend: one of `BACKENDS`.
        version: version of its engine; None: any.
        graph: a graph of a bundle.
        precision: precision of the bundle.
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
    remedy = _no_newer() if backend == "cpu" and support.until is None else ""
    return f"the graph {graph.name} needs {engine} {needed}; {version} is installed{remedy}"


def _no_newer() -> str:
    """Return what to do where PyPI has no onnxruntime after 1.23, "" where it has."""
    floats = "a bundle in float32 or float16"
    if (sys.platform, platform.machine()) == ("darwin", "x86_64"):
        return f", the newest for Macs with an Intel processor: take {floats}"
    if sys.version_info < (3, 11):
        return f", the newest for Python 3.10: take Python 3.11 or later, or {floats}"
    return ""


def misfit(manifest: Manifest, backend: str) -> str | None:
    """Return why no version of a backend runs this kind of model, or None if it may run it."""
    if manifest.model_info.encoder is None or backend in WITH_ENCODERS:
        return None
    return f"encoder-decoders do not run on the backend {backend}; use cpu"


def serving(manifest: Manifest, backend: str, part: Part = "decoder") -> list[Graph]:
    """Return the graphs that can serve as `part` on some version of a backend, best first."""
    if misfit(manifest, backend) is not None:
        return []
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
    """Return the graphs that can serve as `part` on this version: one per lowering, best first.

    Args:
        manifest: manifest of the bundle.
        backend: one of `BACKENDS`.
        version: version of its engine; None: any.
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
