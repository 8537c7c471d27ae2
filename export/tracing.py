"""Trace a model by torch.export, once for all lowerings.

Inputs and outputs, with B batch, T new tokens, S context, P requested positions, K kv heads, D head
width, V vocabulary; of an encoder-decoder also G sources, N places of a source, H heads:

    decoder: ids int64 [B, T], past_len int64 [B], logit_positions int64 [B, P],
             source_len int64 [G], source_k.<layer>, source_v.<layer> [G, H, N, D],
             past_k.<layer>, past_v.<layer> [B, K, S, D], in the compute type of the layer
             -> logits float32 [B, P, V], present_k.<layer>, present_v.<layer> [B, K, S, D]
    encoder: source_ids int64 [G, N], source_len int64 [G]
             -> source_k.<layer>, source_v.<layer> [G, H, N, D]

B is a multiple of G: the rows of one source lie side by side.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgegpt.model import GPT, Seq2Seq
from edgegpt.model.attention import Cache

__all__ = ["Traced", "quiet", "trace", "trace_decoder", "trace_encoder"]

# Sizes to trace with. All differ, and none is 1, because torch.export would make a 1 constant.
SIZES = {
    "batch": 2,
    "new_tokens": 3,
    "context": 7,
    "logit_positions": 5,
    "sources": 4,
    "source": 6,
}

Shape = dict[int, Any]


@dataclass(frozen=True)
class Traced:
    """A path of a model.

    It has no values: `weights` has those of the parameters, and `tables` those of the buffers.
    `shapes` has the axes of each input that vary.
    """

    program: torch.export.ExportedProgram
    path: Literal["decoder", "encoder"]
    inputs: list[str]
    outputs: list[str]
    shapes: tuple[object, ...]
    tied_names: dict[str, str]
    weights: Mapping[str, Tensor]
    tables: Mapping[str, Tensor]


class _Decoder(nn.Module):
    """The cached path, with a flat tuple of logits and cache tensors as its result."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: Tensor, past_len: Tensor, logit_positions: Tensor, past: list[Cache]
    ) -> tuple[Tensor, ...]:
        logits, present = self.model.forward_cached(ids, past_len, logit_positions, past)
        return (logits, *(tensor for layer in present for tensor in layer))


class _SourcedDecoder(nn.Module):
    """The cached path of the decoder of an encoder-decoder, likewise."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Tensor,
        past_len: Tensor,
        logit_positions: Tensor,
        source_len: Tensor,
        sources: list[Cache],
        past: list[Cache],
    ) -> tuple[Tensor, ...]:
        attended = [(cache, source_len) for cache in sources]
        logits, present = self.model.decoder.forward_cached(
            ids, past_len, logit_positions, past, attended
        )
        return (logits, *(tensor for layer in present for tensor in layer))


class _Encoder(nn.Module):
    """What a decoder attends to, as a flat tuple."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_ids: Tensor, source_len: Tensor) -> tuple[Tensor, ...]:
        caches = self.model.encode(source_ids, source_len)
        return tuple(tensor for cache in caches for tensor in cache)


class _Program(torch.export.ExportedProgram):
    """A traced program that is decomposed only if it has an operator that must be.

    torch.onnx decomposes every program, which traces all of it again, whether or not it has an
    operator without a translation.
    """

    def __init__(self, traced: torch.export.ExportedProgram) -> None:
        vars(self).update(vars(traced))

    def run_decompositions(
        self, decomp_table: dict[Any, Any] | None = None, decompose_custom_triton_ops: bool = False
    ) -> torch.export.ExportedProgram:
        """Return a program without the operators that are keys of `decomp_table`."""
        operators = {node.target for node in self.graph.nodes}
        if decomp_table is not None and operators.isdisjoint(decomp_table):
            return self
        program: torch.export.ExportedProgram
        program = super().run_decompositions(decomp_table, decompose_custom_triton_ops)
        return program


def trace(model: GPT, weights: Mapping[str, Tensor] | None = None) -> Traced:
    """Trace the cached path of a model.

    Args:
        model: the model. Only shapes and types count; its weights may be on the meta device.
        weights: the values of its weights, in any type; None: its own.
    """
    shapes, axis = _on_meta(model), _axes()
    step, step_shapes, cache_shapes = _step(shapes, axis)
    return _traced(
        _Decoder(shapes),
        "decoder",
        (*step, shapes.empty_cache(SIZES["batch"], SIZES["context"])),
        (*step_shapes, cache_shapes),
        [*STEP, *_per_layer("past", model.config.n_layer)],
        ["logits", *_per_layer("present", model.config.n_layer)],
        model,
        weights,
    )


def trace_decoder(model: Seq2Seq, weights: Mapping[str, Tensor] | None = None) -> Traced:
    """Trace the cached path of an encoder-decoder's decoder; arguments are `trace`'s."""
    shapes, axis, count = _on_meta(model), _axes(), model.config.decoder.n_layer
    step, step_shapes, cache_shapes = _step(shapes.decoder, axis)
    kept = shapes.decoder.config
    size = (SIZES["sources"], kept.n_head, SIZES["source"], kept.head_dim)
    likes = [block.source_attention.kv.weight for block in shapes.decoder.blocks]
    source = {0: axis["sources"], 2: axis["source"]}
    return _traced(
        _SourcedDecoder(shapes),
        "decoder",
        (
            *step,
            _whole(SIZES["sources"]),
            [(like.new_zeros(size), like.new_zeros(size)) for like in likes],
            shapes.decoder.empty_cache(SIZES["batch"], SIZES["context"]),
        ),
        (*step_shapes, {0: axis["sources"]}, [(source, source)] * count, cache_shapes),
        [*STEP, "source_len", *_per_layer("source", count), *_per_layer("past", count)],
        ["logits", *_per_layer("present", count)],
        model,
        weights,
    )


def trace_encoder(model: Seq2Seq, weights: Mapping[str, Tensor] | None = None) -> Traced:
    """Trace the encoder of an encoder-decoder; arguments are those of `trace`."""
    shapes, axis = _on_meta(model), _axes()
    return _traced(
        _Encoder(shapes),
        "encoder",
        (_whole(SIZES["sources"], SIZES["source"]), _whole(SIZES["sources"])),
        ({0: axis["sources"], 1: axis["source"]}, {0: axis["sources"]}),
        ["source_ids", "source_len"],
        _per_layer("source", model.config.decoder.n_layer),
        model,
        weights,
    )


STEP = ["ids", "past_len", "logit_positions"]


def _step(
    model: GPT, axis: dict[str, Any]
) -> tuple[tuple[Tensor, ...], tuple[Shape, ...], list[tuple[Shape, Shape]]]:
    """Return the inputs of a step without the cache, their axes, and the axes of the cache."""
    inputs = (
        _whole(SIZES["batch"], SIZES["new_tokens"]),
        _whole(SIZES["batch"]),
        _whole(SIZES["batch"], SIZES["logit_positions"]),
    )
    batch = axis["batch"]
    shapes = {0: batch, 1: axis["new_tokens"]}, {0: batch}, {0: batch, 1: axis["logit_positions"]}
    cache = {0: batch, 2: axis["context"]}
    return inputs, shapes, [(cache, cache)] * model.config.n_layer


def _whole(*sizes: int) -> Tensor:
    return torch.zeros(sizes, dtype=torch.int64, device="meta")


def _axes() -> dict[str, Any]:
    return {name: torch.export.Dim(name) for name in SIZES}


def _per_layer(name: str, count: int) -> list[str]:
    return [f"{name}_{kind}.{layer}" for layer in range(count) for kind in "kv"]


def _traced(
    module: nn.Module,
    path: Literal["decoder", "encoder"],
    example: tuple[object, ...],
    shapes: tuple[object, ...],
    inputs: list[str],
    outputs: list[str],
    model: GPT | Seq2Seq,
    weights: Mapping[str, Tensor] | None,
) -> Traced:
    with quiet():
        program = torch.export.export(module.eval(), example, dynamic_shapes=shapes, strict=False)
    return Traced(
        _Program(program),
        path,
        inputs,
        outputs,
        shapes,
        model.tied_names(),
        dict(model.named_parameters()) if weights is None else weights,
        dict(model.named_buffers()),
    )


def _on_meta(model: Any) -> Any:
    """Return a copy of `model` on the meta device, made without copying any value."""
    places: dict[int, Tensor] = {id(it): nn.Parameter(it.to("meta")) for it in model.parameters()}
    places |= {id(it): it.to("meta") for it in model.buffers()}
    return copy.deepcopy(model, places)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporter's progress messages and its warnings from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
