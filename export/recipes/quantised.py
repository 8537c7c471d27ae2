"""Weights as integers of 8 or 4 bits, within a budget of loss.

For ONNX Runtime there is a graph that generates. Unless the settings leave it out, a second graph,
with a second copy of the weights, feeds long prompts. Further graphs have float32 activations; they
serve as the exact reference, and engines that do not round activations run them. One uses ONNX
Runtime's own operators and one is in the `standard` lowering. If whole blocks make up the weights'
rows, TensorRT gets one, too. An encoder-decoder has an encoder to each of these. A GPT has one with
activations in float16 besides, for GPUs: the float32 ones there have no fused attention.

A browser's kernels are fast only for int8 with one scale a row. For it, the weights are rounded in
whole rows, and there is one graph that generates, with its exact reference.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import EdgeGPTWarning, InvalidInputError
from edgegpt.freed_memory import give_back_memory
from edgegpt.model import GPTConfig, Seq2SeqConfig
from edgegpt.model_weights import load_model, skeleton
from edgegpt.runtime.bundle.golden import Prompt
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.bundle.vocabulary import BITS, Part, Precision
from edgegpt.runtime.files import scratch_folder

from ..golden import quality_pairs, quality_windows
from ..graph import build_graph
from ..half_precision import in_half_precision
from ..layered import LayeredModel
from ..lowerings import ORT, STANDARD, STANDARD_QDQ, Lowering
from ..pair_texts import held_out_pairs
from ..paired import PairedModel
from ..passes import (
    CastWeights,
    DequantizeWeights,
    QuantizeActivations,
    QuantizeWeights,
    StoreColumns,
    UseFloatActivations,
)
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
from ..range_probe import unsafe, watched
from ..settings import ExportSettings
from ..texts import calibration_ids, is_large, tokenizer_of, window_length
from ..tracing import Traced, trace
from .base import Content, Progress, Recipe
from .parts import (
    golden_vectors,
    held_out_windows,
    least_bytes,
    lowerings_for,
    named,
    traced_parts,
)

__all__ = ["QUANTISED"]

# Of a calibration text: so many tokens, in windows of at most so many.
# For SmolLM2, 8,192 in place of 4,096 lower the KL of int4 by 1 %.
CALIBRATION_TOKENS, CALIBRATION_TOKENS_OF_LARGE, CALIBRATION_LENGTH = 32768, 4096, 512

PAIR_TOKENS = 6144  # of held-out targets

SURE = 0.95  # share of the budget that leaves room for what PyTorch and an engine differ by

LOWERINGS_OF_QUANTISED = (ORT, STANDARD, STANDARD_QDQ)  # the first that can be had generates

Weights = Mapping[str, BlockQuantized]


def _make(
    source: Checkpoint, precision: Precision, settings: ExportSettings, progress: Progress
) -> Content:
    lowerings_for(source.config, LOWERINGS_OF_QUANTISED, settings)  # refused before the work
    with scratch_folder(least_bytes(source.config, precision)) as folder:
        progress("choosing texts to calibrate on", 0, 0)
        texts = (
            _pairs(source)
            if isinstance(source.config, Seq2SeqConfig)
            else _windows(source, settings)
        )
        source.release()  # the model that may have written the texts
        progress("computing the float32 model's logits on held-out text", 0, 0)
        yardstick = Yardstick(texts.model, texts.counted)
        quality = texts.golden(yardstick)
        found = quantize_within_budget(
            yardstick, texts.selection, precision, texts.calibration, settings, progress
        )
        found = replace(found, integers=StoredIntegers(found.integers, folder))
        give_back_memory()
        model = load_model(source.config, Dequantized(found.weights, found.integers))
        with watched(model) as largest:  # no text of its own: a large model takes minutes for it
            golden = golden_vectors(source, model, progress)
        del model
        kept = tuple(sorted(unsafe(largest)))
        graphs = _graphs(source.config, found, kept, settings, progress)
    has_half = any(graph.part == "half" for graph, _ in graphs)
    return Content(replace(golden, quality=quality), graphs, found.entry, kept if has_half else ())


@dataclass(frozen=True)
class _Texts:
    """The model in float32, and the texts on which it is quantised and measured.

    On `counted` the loss is measured, on `selection` layers are chosen, on `calibration` GPTQ
    rounds; `golden` returns what the golden file gets of the first ones.
    """

    model: LayeredModel | PairedModel
    counted: Any
    selection: Any
    calibration: Any
    golden: Callable[[Yardstick], list[Prompt]]


def _windows(source: Checkpoint, settings: ExportSettings) -> _Texts:
    """Return windows of a GPT's text."""
    calibration = _calibration(source, settings.calibration)
    counted, selection = _parted(held_out_windows(source))
    model = LayeredModel(source.config, source.weights)
    return _Texts(model, counted, selection, calibration, quality_windows)


def _pairs(source: Checkpoint) -> _Texts:
    """Return held-out pairs; layers are chosen and calibrated on those that are not counted."""
    pairs = held_out_pairs(source)
    model = PairedModel(source.config, source.weights)
    counted = [pair for index, pair in enumerate(pairs) if index % 3 != 1 or len(pairs) == 1]
    others = [pair for index, pair in enumerate(pairs) if index % 3 == 1] or pairs
    return _Texts(
        model,
        model.some(counted, 1, PAIR_TOKENS),
        model.some(others, 1, PAIR_TOKENS),
        model.some(others[::-1], 1, CALIBRATION_TOKENS_OF_LARGE),
        quality_pairs,
    )


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
    config: GPTConfig | Seq2SeqConfig,
    found: Quantised,
    kept: tuple[str, ...],
    settings: ExportSettings,
    progress: Progress,
) -> list[tuple[Graph, ir.Model]]:
    """Return all graphs, the one that generates first; float16 cannot hold the layers `kept`."""
    fast_prefill = settings.target is None and _fast_prefill(found, settings)
    progress("tracing and lowering the graphs", 0, 0)
    model, weights = skeleton(config), found.integers
    main, *others = lowerings_for(config, LOWERINGS_OF_QUANTISED, settings)
    decoder, *encoders = traced_parts(model, found.weights)
    if settings.target == "web":
        return _for_web(decoder, main, weights)
    if main is STANDARD_QDQ:
        return _for_tensorrt([decoder, *encoders], weights)
    graphs = _lowered(decoder, main, weights, fast=fast_prefill, many=bool(encoders))
    for encoder in encoders:
        graphs += _lowered(encoder, main, weights, fast=fast_prefill)
    if STANDARD in others:  # CUDA can run these graphs
        for traced in (decoder, *encoders):
            exact = _exact(build_graph(traced, STANDARD), weights)
            graphs.append(named(exact, STANDARD, EXACT[traced.path]))
    if STANDARD_QDQ in others:
        graphs += _for_tensorrt([decoder, *encoders], weights)
    if main is ORT and isinstance(config, GPTConfig):
        graphs.append(_half(config, found, kept))
    return graphs


EXACT: dict[str, Part] = {"decoder": "exact", "encoder": "exact-encoder"}


def _lowered(
    traced: Traced, lowering: Lowering, weights: Weights, *, fast: bool, many: bool = False
) -> list[tuple[Graph, ir.Model]]:
    """Return the graph that rounds activations, the exact one, and the one for long prompts.

    An encoder's texts are always long, so its first graph is the one for these. The last graph also
    decodes many rows; with `many`, its head is made for them.
    """
    graph = build_graph(traced, lowering)
    weights = _within(graph, weights)
    QuantizeWeights(weights)(graph)
    parts: dict[Part, ir.Model] = {traced.path: graph, EXACT[traced.path]: graph.clone()}
    UseFloatActivations()(parts[EXACT[traced.path]])
    if fast and traced.path == "encoder":
        QuantizeActivations(weights)(graph)
    elif fast:
        parts["prefill"] = graph.clone()
        QuantizeActivations(weights, head=many)(parts["prefill"])
    return [named(own, lowering, part) for part, own in parts.items()]


def _half(config: GPTConfig, found: Quantised, kept: tuple[str, ...]) -> tuple[Graph, ir.Model]:
    """Return the graph with activations in float16, but for the layers `kept`."""
    wide = skeleton(config)
    traced = trace(in_half_precision(wide, "float16", kept), found.weights)
    graph = build_graph(replace(traced, tables=dict(wide.named_buffers())), ORT)
    weights = _within(graph, found.integers)
    for edit in (QuantizeWeights(weights), UseFloatActivations(), CastWeights()):
        edit(graph)
    return named(graph, ORT, "half")


def _for_web(traced: Traced, lowering: Lowering, weights: Weights) -> list[tuple[Graph, ir.Model]]:
    """Return the graph that multiplies int8, and the exact one, both over the same columns."""
    exact = build_graph(traced, lowering)
    StoreColumns(weights)(exact)
    graph = exact.clone()
    QuantizeActivations({}, head=True)(graph)
    return [named(graph, lowering, "decoder"), named(exact, lowering, "exact")]


def _exact(graph: ir.Model, weights: Weights) -> ir.Model:
    """Return the graph with quantised weights and float32 activations."""
    for edit in (QuantizeWeights(_within(graph, weights)), UseFloatActivations()):
        edit(graph)
    return graph


def _within(graph: ir.Model, weights: Weights) -> Weights:
    """Return the weights that a graph has: an encoder-decoder's are in two graphs."""
    return {name: weights[name] for name in weights if name in graph.graph.initializers}


def _for_tensorrt(parts: list[Traced], weights: Weights) -> list[tuple[Graph, ir.Model]]:
    """Return the graphs that TensorRT reads; none unless whole blocks make up all rows."""
    if any(weight.shape[1] % weight.block for weight in weights.values()):
        return []
    graphs = [build_graph(traced, STANDARD_QDQ) for traced in parts]
    for graph in graphs:
        DequantizeWeights(_within(graph, weights))(graph)
    return [
        named(graph, STANDARD_QDQ, EXACT[traced.path])
        for traced, graph in zip(parts, graphs, strict=True)
    ]


QUANTISED = Recipe(
    precisions=tuple(BITS),
    options=("keep_fp32", "method", "calibration", "max_kl", "fast_prefill", "lowerings", "target"),
    make=_make,
)
