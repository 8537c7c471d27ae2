"""Weights as integers of 8 or 4 bits, within a budget of loss.

For ONNX Runtime there is a graph that generates. Unless the settings leave it out, a second graph,
with a second copy of the weights, feeds long prompts. Further graphs have float32 activations; they
serve as the exact reference, and engines that do not round activations run them. One uses ONNX
Runtime's own operators and one is in the `standard` lowering. If whole blocks make up the weights'
rows, TensorRT gets one, too.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch
from torch import Tensor

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import EdgeGPTWarning, InvalidInputError
from edgegpt.model import GPTConfig
from edgegpt.model_weights import load_model, skeleton
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.bundle.vocabulary import BITS, Part, Precision

from ..golden import quality_windows
from ..graph import build_graph
from ..layered import LayeredModel
from ..lowerings import ORT, STANDARD, STANDARD_QDQ
from ..passes import DequantizeWeights, QuantizeActivations, QuantizeWeights, UseFloatActivations
from ..quantization import (
    BlockQuantized,
    Dequantized,
    Quantised,
    StoredIntegers,
    Yardstick,
    cut_windows,
    own_windows,
    quantize_within_budget,
)
from ..settings import ExportSettings
from ..texts import calibration_ids, is_large, tokenizer_of, window_length
from ..tracing import Traced, trace
from .base import Content, Progress, Recipe
from .parts import golden_vectors, held_out_windows, named

__all__ = ["QUANTISED"]

# Of a calibration text: so many tokens, in windows of at most so many.
# For SmolLM2, 8,192 in place of 4,096 lower the KL of int4 by 1 %.
CALIBRATION_TOKENS, CALIBRATION_TOKENS_OF_LARGE, CALIBRATION_LENGTH = 32768, 4096, 512

SURE = 0.95  # share of the budget that leaves room for what PyTorch and an engine differ by

Weights = Mapping[str, BlockQuantized]


def _make(
    source: Checkpoint, precision: Precision, settings: ExportSettings, progress: Progress
) -> Content:
    progress("choosing texts to calibrate on", 0, 0)
    examples = _calibration(source, settings.calibration)
    windows, selection = _parted(held_out_windows(source))
    source.release()  # the model that may have written the texts
    progress("computing the float32 model's logits on held-out text", 0, 0)
    yardstick = Yardstick(LayeredModel(source.config, source.weights), windows)
    quality = quality_windows(yardstick)
    found = quantize_within_budget(yardstick, selection, precision, examples, settings, progress)
    with TemporaryDirectory(prefix="edgegpt-") as folder:
        found = replace(found, integers=StoredIntegers(found.integers, Path(folder)))
        dequantized = Dequantized(found.weights, found.integers)
        golden = golden_vectors(source, load_model(source.config, dequantized), progress)
        graphs = _graphs(source.config, found, _fast_prefill(found, settings), progress)
    return Content(replace(golden, quality=quality), graphs, found.entry)


def _parted(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Return two of three windows, and the third ones; a single window serves as both."""
    chosen = torch.arange(len(windows)) % 3 == 1
    return (windows[~chosen], windows[chosen]) if len(windows) > 1 else (windows, windows)


def _fast_prefill(found: Quantised, settings: ExportSettings) -> bool:
    """Return whether the bundle gets a graph that feeds prompts faster."""
    if found.by_row is None:
        return bool(settings.fast_prefill)
    fits = found.by_row.kl <= SURE * found.entry.max_kl
    if not fits:
        warnings.warn(
            f"the graph that feeds prompts faster is left out, because it rounds this model's "
            f"activations too far: KL {found.by_row.kl:.1e} (allowed: {found.entry.max_kl:.1e})",
            EdgeGPTWarning,
            stacklevel=2,
        )
    return fits


def _calibration(source: Checkpoint, text: str | None) -> Tensor:
    """Return windows of a text to calibrate on, int64 [N, T].

    It is `text`, or a text that the model was not trained on; if there is none, the model writes.
    """
    shape, tokenizer = skeleton(source.config), tokenizer_of(source)
    length = min(window_length(shape), CALIBRATION_LENGTH)
    if text is None:
        ids = calibration_ids(source)
        if len(ids) < length:
            return own_windows(source.model)
    elif tokenizer is None:
        raise InvalidInputError("a calibration text needs a tokenizer; the model has none")
    else:
        ids = tokenizer.encode(text)
    tokens = CALIBRATION_TOKENS_OF_LARGE if is_large(shape) else CALIBRATION_TOKENS
    return cut_windows(ids, length)[: max(1, tokens // length)]


def _graphs(
    config: GPTConfig, found: Quantised, fast_prefill: bool, progress: Progress
) -> list[tuple[Graph, ir.Model]]:
    """Return all graphs, the one that generates first."""
    progress("tracing and lowering the graphs", 0, 0)
    traced, weights = trace(skeleton(config), found.weights), found.integers
    main = ORT if ORT.obstacle(config) is None else STANDARD
    decoder = build_graph(traced, main)
    QuantizeWeights(weights)(decoder)
    parts: dict[Part, ir.Model] = {"decoder": decoder, "exact": decoder.clone()}
    UseFloatActivations()(parts["exact"])
    if fast_prefill:
        parts["prefill"] = decoder.clone()
        QuantizeActivations(weights)(parts["prefill"])
    graphs = [named(graph, main, part) for part, graph in parts.items()]
    if main is not STANDARD:
        portable = build_graph(traced, STANDARD)  # CUDA can run this graph
        for edit in (QuantizeWeights(weights), UseFloatActivations()):
            edit(portable)
        graphs.append(named(portable, STANDARD, "exact"))
    return [*graphs, *_for_tensorrt(traced, weights)]


def _for_tensorrt(traced: Traced, weights: Weights) -> list[tuple[Graph, ir.Model]]:
    """Return the graph that TensorRT reads; none unless whole blocks make up all rows."""
    if any(weight.shape[1] % weight.block for weight in weights.values()):
        return []
    graph = build_graph(traced, STANDARD_QDQ)
    DequantizeWeights(weights)(graph)
    return [named(graph, STANDARD_QDQ, "exact")]


QUANTISED = Recipe(
    precisions=tuple(BITS),
    options=("keep_fp32", "method", "calibration", "max_kl", "fast_prefill"),
    make=_make,
)
