"""Compare a graph with the plain path of the PyTorch model, place by place.

The compared places are the residual stream after every block, and the normalisations, the attention
and the feed-forward inside it. Extra outputs are added to a temporary copy of the graph, never to
the bundle.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor

from edgegpt.errors import BundleError, CheckpointError
from edgegpt.model import GPT, Seq2Seq
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden_fit import golden_of
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.files import scratch_folder
from edgegpt.runtime.proof.tolerances import TOLERANCES

from .places import Part, find_places, part_of, place_names
from .runs import Array, runs_of

__all__ = [
    "Place",
    "bisect",
    "check_comparable",
    "compared",
    "first_wrong",
    "in_torch",
    "joined",
]


@dataclass(frozen=True)
class Place:
    """One tensor of the model: its name, and the graph's error against PyTorch.

    `error` is max |difference| / max |reference|, or infinity if the graph's tensor is not finite.
    """

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


def bisect(bundle: Bundle, model: GPT | Seq2Seq, graph: Graph) -> list[Place]:
    """Return all places in the order of computation; the first one that fails is the culprit.

    Raises:
        CheckpointError: if the settings of `model` differ from those that were exported.
        BundleError: if the bundle is quantised, because it then differs from the checkpoint, or in
            bfloat16, which ONNX Runtime does not run on a CPU.
    """
    check_comparable(bundle, model, "cpu")
    golden = golden_of(bundle)
    part, runs = part_of(model, graph), runs_of(model, graph, golden)
    reference = in_torch(model, part, place_names(part), runs.in_torch())
    size = bundle.manifest.files[bundle.manifest.weights_file].size
    with scratch_folder(size) as folder:
        path, probes = _probed(bundle, graph, part, folder)
        found = joined(probes, runs.in_graph(graph, _open(path), list(probes.values())))
    tolerance = TOLERANCES[bundle.manifest.precision]
    return compared(found, reference, tolerance)


def first_wrong(places: list[Place]) -> str | None:
    """Return the name of the first place out of tolerance, or None."""
    return next((place.name for place in places if not place.passed), None)


def compared(
    found: Mapping[str, Array], reference: Mapping[str, Array], tolerance: float
) -> list[Place]:
    """Return the places of the reference, each with its error."""
    return [Place(name, _error(found[name], reference[name]), tolerance) for name in reference]


def check_comparable(bundle: Bundle, model: GPT | Seq2Seq, backend: str) -> None:
    """Refuse a bundle that cannot be compared with the model."""
    precision, obstacle = bundle.manifest.precision, None
    if bundle.manifest.quantization is not None:
        obstacle = "its graphs do not compute what the checkpoint does"
    elif precision == "bfloat16" and backend == "cpu":
        obstacle = "onnxruntime runs no bfloat16 on a CPU"
    if obstacle is not None:
        raise BundleError(
            f"cannot bisect a bundle in {precision}: {obstacle}; bisect a float32 export of the "
            f"same checkpoint"
        )
    ours, exported = model.config.to_dict(), bundle.manifest.model
    for name in [*ours, *(exported.keys() - ours.keys())]:
        if (here := ours.get(name)) != (there := exported.get(name)):
            raise CheckpointError(
                f"the checkpoint's model is not the one of the bundle: {name} is {here!r:.60} in "
                f"the checkpoint, and {there!r:.60} in the bundle"
            )


@torch.no_grad()
def in_torch(
    model: GPT | Seq2Seq, part: Part, names: Iterable[str], runs: Iterable[list[Tensor]]
) -> dict[str, Array]:
    """Return all numbers of each place in PyTorch, in the order of computation.

    Each step of `runs` runs the model, and yields the part's results.
    """
    values: dict[str, list[Array]] = {name: [] for name in names}
    embedding = f"{part.prefix}embedding"
    handles = [
        model.get_submodule(name).register_forward_hook(_keeper(values[name]))
        for name in values
        if name not in (embedding, *part.results)
    ]
    if embedding in values:
        first = model.get_submodule(f"{part.prefix}blocks.0")
        handles.append(first.register_forward_pre_hook(_keeper(values[embedding])))
    try:
        for results in runs:
            for name, tensor in zip(part.results, results, strict=True):
                values[name].append(tensor.numpy().ravel())
    finally:
        for handle in handles:
            handle.remove()
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _keeper(values: list[Array]) -> Callable[..., None]:
    """Return a hook that keeps the first input (before) or the output (after) of a module."""

    def keep(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        values.append((inputs[0] if output is None else output).numpy().flatten())

    return keep


def joined(names: Collection[str], runs: Iterable[list[Array]]) -> dict[str, Array]:
    """Return all numbers of each place; `runs` yields a part of those of each."""
    values: dict[str, list[Array]] = {name: [] for name in names}
    for outputs in runs:
        for name, output in zip(names, outputs, strict=True):
            values[name].append(output.ravel())
    return {name: np.concatenate(parts) for name, parts in values.items()}


def _probed(bundle: Bundle, graph: Graph, part: Part, folder: Path) -> tuple[Path, dict[str, str]]:
    """Return a copy of the graph in `folder`, with an output per place, and place -> output."""
    weights, path = bundle.manifest.weights_file, folder / "probed.onnx"
    shutil.copyfile(bundle.file(weights), folder / weights)
    model = ir.load(bundle.file(graph.file))
    probes = find_places(model, part)
    for value in dict.fromkeys(probes.values()):
        if value not in model.graph.outputs:
            model.graph.outputs.append(value)
    ir.save(model, path)
    return path, {name: str(value.name) for name, value in probes.items()}


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: ORT warns of copied caches, which is expected
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _error(found: Array, reference: Array) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - reference).max() / np.abs(reference).max())
