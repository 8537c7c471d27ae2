"""The largest values in each part of a model on a text, to tell whether float16 can hold them.

The model runs in float32, in PyTorch. The probe reads the inputs and outputs of each layer. It
bounds the products of queries and keys by their lengths (Cauchy and Schwarz).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgegpt.model import GPT, Seq2Seq
from edgegpt.model.attention import Attention, SourceAttention

from .half_precision import RESIDUAL

__all__ = ["SAFE", "largest_values", "too_large", "unsafe", "watched"]

Note = Callable[[str, Tensor], None]
Text = tuple[Tensor, ...]  # the arguments of a model's plain path

LARGEST_FLOAT16 = 65504.0
# A text is a sample. Another text may give values this many times as large.
HEADROOM = 8
SAFE = LARGEST_FLOAT16 / HEADROOM


def too_large(model: GPT | Seq2Seq, texts: Iterable[Text]) -> dict[str, float]:
    """Return the parts of `model` that float16 cannot safely hold, and their largest values."""
    return unsafe(largest_values(model, texts))


def unsafe(largest: Mapping[str, float]) -> dict[str, float]:
    """Return those of the parts with values that float16 cannot safely hold."""
    return {name: value for name, value in largest.items() if not value <= SAFE}


@torch.no_grad()
def largest_values(model: GPT | Seq2Seq, texts: Iterable[Text]) -> dict[str, float]:
    """Return max |value| inside each of `model.sub_layers()`, and in the residual stream.

    Args:
        model: in float32 and eval mode.
        texts: what the model is called with: ids int64 [1, T], or those of a source, its length,
            and the ids of a target.
    """
    with watched(model) as largest:
        for text in texts:
            model(*text)
    return largest


@contextmanager
def watched(model: GPT | Seq2Seq) -> Iterator[dict[str, float]]:
    """Yield max |value| as `largest_values` returns it, of all that runs in the context."""
    largest = dict.fromkeys([*(layer.name for layer in model.sub_layers()), RESIDUAL], 0.0)

    def note(name: str, tensor: Tensor) -> None:
        value = float(tensor.abs().max())
        if value > largest[name] or math.isnan(value):  # no value is > NaN, so NaN stays
            largest[name] = value

    handles = list(_watch(model, note))
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def _watch(model: GPT | Seq2Seq, note: Note) -> Iterator[RemovableHandle]:
    """Register a hook on every layer; yield the handles."""
    for layer in model.sub_layers():
        for module in model.get_submodule(layer.name).modules():
            if isinstance(module, nn.Linear):
                yield module.register_forward_hook(_noting(note, layer.name))
            elif isinstance(module, Attention):
                yield module.qkv.register_forward_hook(_noting_scores(note, layer.name, module))
            elif isinstance(module, SourceAttention):
                yield from _watch_source(note, layer.name, module)
        for name in {layer.norm or layer.name, layer.norm_sum or layer.name}:
            reader = model.get_submodule(name)
            yield reader.register_forward_pre_hook(_noting(note, RESIDUAL))
    for writer in model.writers():  # what a writer adds has the stream's type
        yield writer.register_forward_hook(lambda _, __, result: note(RESIDUAL, result))


def _watch_source(note: Note, name: str, attention: SourceAttention) -> Iterator[RemovableHandle]:
    """Watch for the same bound; a source's keys are made before a text's queries."""
    longest_key = [torch.zeros(())]

    def keep(_: nn.Module, __: tuple[Tensor, ...], kv: Tensor) -> None:
        keys = kv.unflatten(-1, (2, attention.config.n_head, -1))[..., 0, :, :]  # (G, N, H, D)
        longest_key[0] = keys.norm(dim=-1).max()

    def hook(_: nn.Module, __: tuple[Tensor, ...], q: Tensor) -> None:
        queries = q.unflatten(-1, (attention.config.n_head, -1))  # (G, T, H, D)
        longest = queries.norm(dim=-1).max()
        note(name, longest * longest_key[0] * attention.config.attention_scale)

    yield attention.kv.register_forward_hook(keep)
    yield attention.q.register_forward_hook(hook)


def _noting(note: Note, name: str) -> Callable[..., None]:
    """Return a hook, for before or after a module, that notes its first input and its output."""

    def hook(_: nn.Module, given: tuple[Tensor, ...], result: Tensor | None = None) -> None:
        note(name, given[0])
        if result is not None:
            note(name, result)

    return hook


def _noting_scores(note: Note, name: str, attention: Attention) -> Callable[..., None]:
    """Return a hook that notes a bound of the scores: the longest query times the longest key."""

    def hook(_: nn.Module, __: tuple[Tensor, ...], qkv: Tensor) -> None:
        queries, keys, _ = (heads.norm(dim=-1).max() for heads in attention.split_heads(qkv))
        note(name, queries * keys * attention.config.attention_scale)

    return hook
