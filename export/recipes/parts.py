"""Parts that the recipes share: windows and golden vectors of a checkpoint, graphs of a model."""

from collections.abc import Mapping

import onnx_ir as ir
from torch import Tensor

from edgegpt.checkpoint import Checkpoint
from edgegpt.errors import CheckpointError, InvalidInputError
from edgegpt.model import GPT
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.manifest import Graph
from edgegpt.runtime.bundle.vocabulary import Part
from edgegpt.runtime.text.tokenizer import Tokenizer

from ..decoder_graph import build_decoder_graph, describe, trace
from ..golden import make_golden
from ..lowerings import LOWERINGS, Lowering
from ..quantization import own_windows, scored_windows
from .base import Progress

__all__ = ["decoders", "golden_vectors", "held_out_windows", "named", "tokenizer_of"]

OWN_WINDOWS = 8  # written by a model without held-out text, to measure the loss on


def tokenizer_of(source: Checkpoint) -> Tokenizer | None:
    """Return the checkpoint's tokenizer, if it has one."""
    return None if source.tokenizer_json is None else Tokenizer(source.tokenizer_json)


def held_out_windows(source: Checkpoint) -> Tensor:
    """Return windows of the held-out text, int64 [N, T + 1], or of text that the model writes.

    Windows of the held-out text are the full windows of `edgegpt eval`.
    """
    block, tokenizer = source.model.config.block_size, tokenizer_of(source)
    if tokenizer is not None and source.held_out is not None:
        try:
            ids = tokenizer.encode(source.held_out)
        except InvalidInputError as error:
            raise _misfit(error) from error
        if len(ids) > block:
            return scored_windows(ids, block)
    return own_windows(source.model, OWN_WINDOWS)


def golden_vectors(source: Checkpoint, model: GPT, progress: Progress) -> Golden:
    """Return the golden vectors of `model`, which is in float32, over the checkpoint's texts."""
    progress("computing golden vectors in PyTorch", 0, 0)
    try:
        return make_golden(model, tokenizer_of(source), source.held_out)
    except InvalidInputError as error:
        raise _misfit(error) from error


def decoders(
    model: GPT, weights: Mapping[str, Tensor], progress: Progress
) -> list[tuple[Graph, ir.Model]]:
    """Return a graph of each lowering that supports the model, the preferred one first.

    `model` may be a skeleton; `weights` has the values of its weights, which are not read yet.
    """
    able = [lowering for lowering in LOWERINGS if lowering.obstacle(model.config) is None]
    progress("tracing the model", 0, len(able) + 1)
    traced, graphs = trace(model, weights), []
    for index, lowering in enumerate(able):
        progress(f"lowering to {lowering.name}", index + 1, len(able) + 1)
        graphs.append(named(build_decoder_graph(traced, lowering), lowering, "decoder"))
    return graphs


def named(model: ir.Model, lowering: Lowering, part: Part) -> tuple[Graph, ir.Model]:
    """Name a graph; return its entry of the manifest, and the graph."""
    model.graph.name = f"{part}.{lowering.name}"
    return describe(model, lowering, part), model


def _misfit(error: InvalidInputError) -> CheckpointError:
    return CheckpointError(f"the checkpoint's held_out.txt does not fit: {error}")
