"""Parts that the recipes share: windows and golden vectors of a checkpoint, graphs of a model."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from torch import Tensor

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT, GPTConfig, Seq2Seq, Seq2SeqConfig
from edgegpt.model_weights import skeleton
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.bundle.vocabulary import Part, Precision

from ..golden import make_golden, make_pair_golden
from ..graph import build_graph, describe
from ..lowerings import LOWERINGS, Lowering
from ..pair_texts import held_out_pairs, source_tokenizer_of
from ..quantization import own_windows, scored_windows
from ..settings import ExportSettings
from ..texts import held_out_ids, is_large, tokenizer_of, window_length
from ..tracing import Traced, trace, trace_decoder, trace_encoder
from .base import Progress

__all__ = [
    "decoders",
    "golden_vectors",
    "held_out_windows",
    "least_bytes",
    "lowerings_for",
    "named",
    "stacks_of",
    "traced_parts",
]

# The text that a model writes if there is none to measure its loss on: windows, and tokens in each.
OWN_TEXT, OWN_TEXT_OF_LARGE = (12, 256), (48, 64)
TOKENS = 3072  # of held-out text for a large model

LEAST_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 0.5}  # of a weight


def least_bytes(config: GPTConfig | Seq2SeqConfig, precision: Precision) -> int:
    """Return the bytes of a model's weights without scales and copies: a bundle takes more."""
    count = sum(weight.numel() for weight in skeleton(config).parameters())
    return int(LEAST_BYTES[precision] * count)


def held_out_windows(source: Checkpoint) -> Tensor:
    """Return windows of the held-out text, int64 [N, T + 1], or of text that the model writes.

    Windows of the held-out text are the full windows of `edgegpt eval`. A large model gets the
    first few, of fewer tokens.
    """
    shape, ids = skeleton(source.config), held_out_ids(source)
    length, large = window_length(shape), is_large(shape)
    if len(ids) <= length:
        return own_windows(source.model, *(OWN_TEXT_OF_LARGE if large else OWN_TEXT))
    windows = scored_windows(ids, length)
    return windows[: max(1, TOKENS // length)] if large else windows


def golden_vectors(source: Checkpoint, model: GPT | Seq2Seq, progress: Progress) -> Golden:
    """Return the golden vectors of `model`, which is in float32, over the checkpoint's texts."""
    progress("computing golden vectors in PyTorch", 0, 0)
    if isinstance(model, Seq2Seq):
        sources = source_tokenizer_of(source) if source.source_tokenizer_json else None
        pairs, tokenizer = held_out_pairs(source), tokenizer_of(source)
        return make_pair_golden(model, pairs, tokenizer, sources, source.usage)
    return make_golden(model, tokenizer_of(source), held_out_ids(source))


def decoders(
    model: GPT | Seq2Seq,
    weights: Mapping[str, Tensor],
    settings: ExportSettings,
    progress: Progress,
) -> list[tuple[Graph, ir.Model]]:
    """Return the graphs of each wanted lowering that supports the model, the preferred one first.

    Those of an encoder-decoder have an encoder and a decoder each. `model` may be a skeleton;
    `weights` has the values of its weights, which are not read yet.
    """
    able = lowerings_for(model.config, LOWERINGS, settings)
    progress("tracing the model", 0, len(able) + 1)
    parts, graphs = traced_parts(model, weights), []
    for index, lowering in enumerate(able):
        progress(f"lowering to {lowering.name}", index + 1, len(able) + 1)
        graphs += [named(build_graph(part, lowering), lowering, part.path) for part in parts]
    return graphs


def lowerings_for(
    config: GPTConfig | Seq2SeqConfig, there: Sequence[Lowering], settings: ExportSettings
) -> list[Lowering]:
    """Return which of the lowerings that a precision has are wanted and support the model.

    For a browser, that is the first one alone.

    Raises:
        InvalidInputError: if one that is named does not, or the precision does not have it, or if
            the target does not run the model.
    """
    if settings.target == "web" and isinstance(config, Seq2SeqConfig):
        raise InvalidInputError(
            "the target web is for models without an encoder: this one, which has one, does not "
            "run in a browser yet"
        )
    obstacles = {
        one.name: next(filter(None, map(one.obstacle, stacks_of(config))), None) for one in there
    }
    for name in settings.lowerings or ():
        if name not in obstacles:
            raise InvalidInputError(
                f"this precision has no graphs of {name}; it has: {', '.join(obstacles)}"
            )
        if obstacles[name]:
            raise InvalidInputError(f"{name} cannot have this model: {obstacles[name]}")
    found = [one for one in there if settings.wants(one.name) and not obstacles[one.name]]
    return found[:1] if settings.target == "web" else found


def stacks_of(config: GPTConfig | Seq2SeqConfig) -> list[GPTConfig]:
    """Return the settings of the stacks of layers that a model has."""
    return [config.decoder, config.encoder] if isinstance(config, Seq2SeqConfig) else [config]


def traced_parts(model: GPT | Seq2Seq, weights: Mapping[str, Tensor]) -> list[Traced]:
    """Trace the decoder, and the encoder if there is one; see `trace`."""
    if isinstance(model, Seq2Seq):
        return [trace_decoder(model, weights), trace_encoder(model, weights)]
    return [trace(model, weights)]


def named(model: ir.Model, lowering: Lowering, part: Part) -> tuple[Graph, ir.Model]:
    """Name a graph; return its entry of the manifest, and the graph."""
    model.graph.name = f"{part}.{lowering.name}"
    return describe(model, lowering, part), model
