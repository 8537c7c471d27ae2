"""Whether golden vectors fit the model of their bundle, so that replaying them means something.

Hashes tell whether the file is the exported one. Only a wrong export or a hand could make one that
does not fit; it is refused before anything is computed.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .bundle import GOLDEN_NAME, SOURCE_TOKENIZER_NAME, TOKENIZER_NAME, Bundle
from .golden import Beams, Continuation, Golden, Ids, Prompt
from .model_info import ModelInfo

__all__ = ["golden_of"]


def golden_of(bundle: Bundle) -> Golden:
    """Return the golden vectors of a bundle.

    Raises:
        BundleError: if they are damaged, or do not fit the model.
    """
    path = bundle.file(GOLDEN_NAME)
    golden = Golden.load(path)
    found = chain(_missing(golden, bundle), _strange(golden, bundle.manifest.model_info))
    strange = next(found, None)
    if strange is not None:
        raise BundleError(
            f"{path} is damaged: {strange} is missing, or not of this model's shape or range"
        )
    return golden


def _missing(golden: Golden, bundle: Bundle) -> Iterator[str]:
    """Yield the names of vectors without which a part of the bundle would go unproved."""
    manifest = bundle.manifest
    parts = {
        "quality": (manifest.quantization, golden.quality),
        "beams": (manifest.model_info.encoder, golden.beams),
        "tokenizer": (bundle.has(TOKENIZER_NAME), golden.tokenizer),
        "source_tokenizer": (bundle.has(SOURCE_TOKENIZER_NAME), golden.source_tokenizer),
    }
    yield from (name for name, (needed, there) in parts.items() if needed and not there)


def _strange(golden: Golden, info: ModelInfo) -> Iterator[str]:
    """Yield the names of what does not fit."""
    block = info.block_size
    for name, prompt in _named(golden):
        if not _fits(prompt.ids, info.vocab_size, block - prompt.past_len) or prompt.past_len < 0:
            yield f"{name}.ids"
        elif not _has_logits(prompt, len(prompt.ids), info.vocab_size):
            yield f"{name}.logits"
        if not _reads(info, prompt.source):
            yield f"{name}.source"
    for index, window in enumerate(golden.quality):
        if not _fits(window.ids, info.vocab_size, block + 1):
            yield f"quality.{index}.ids"
        elif not _has_logits(window, len(window.ids) - 1, info.vocab_size):
            yield f"quality.{index}.logits"
        if not _reads(info, window.source):
            yield f"quality.{index}.source"
    if min(golden.chunk_sizes, default=0) < 1 or sum(golden.chunk_sizes) != len(golden.chunked.ids):
        yield "chunked.sizes"
    yield from _strange_continuations(golden, info)
    shape = (info.n_kv_head, *golden.past[0].shape[1:2], info.head_dim) if golden.past else ()
    if len(golden.past) != 2 * info.n_layer or 0 in shape:
        yield "past"
    yield from (f"past.{n}" for n, cache in enumerate(golden.past) if cache.shape != shape)
    for name in ("tokenizer", "source_tokenizer"):
        sample = getattr(golden, name)
        if sample is not None and (sample.ids.ndim != 1 or not sample.vocabulary):
            yield f"{name}.ids or {name}.vocabulary"
    for index, found in enumerate(golden.beams):
        if not _reads(info, found.source):
            yield f"beams.{index}.source"
        if not _can_be_compared(found):
            yield f"beams.{index}.scores"


def _strange_continuations(golden: Golden, info: ModelInfo) -> Iterator[str]:
    """Yield the names of what greedy decoding cannot have added to the ragged rows."""
    first = golden.continuations[0].ids
    if len(golden.continuations) != len(golden.ragged):
        yield "continuation"
    for index, (row, added) in enumerate(zip(golden.ragged, golden.continuations, strict=False)):
        room = info.block_size - len(row.ids) + 1  # the last new token is not fed
        if not _fits(added.ids, info.vocab_size, room) or added.ids.shape != first.shape:
            yield f"continuation.{index}.ids"
        elif not _has_logits(added, len(added.ids), info.vocab_size):
            yield f"continuation.{index}.logits"
        if added.margins.shape != first.shape:
            yield f"continuation.{index}.margins"


def _named(golden: Golden) -> Iterable[tuple[str, Prompt]]:
    groups = {"prefill": golden.prefill, "ragged": golden.ragged, "far": golden.far}
    yield "chunked", golden.chunked
    for group, prompts in groups.items():
        yield from ((f"{group}.{index}", prompt) for index, prompt in enumerate(prompts))


def _fits(ids: Ids, vocab_size: int, longest: int) -> bool:
    """Return whether these are ids [T] of a vocabulary, 1 to `longest` of them."""
    if ids.ndim != 1 or ids.dtype != np.int64 or not 1 <= len(ids) <= longest:
        return False
    return bool(ids.min() >= 0 and ids.max() < vocab_size)


def _has_logits(part: Prompt | Continuation, count: int, vocab_size: int) -> bool:
    """Return whether there are logits of `count` positions: of all ids, or of the same best."""
    if part.top is None:
        return part.logits.shape == (count, vocab_size)
    best: NDArray[np.integer] = part.top.ids
    if best.ndim != 2 or not 1 <= best.shape[1] <= vocab_size or best.dtype.kind not in "iu":
        return False
    same = part.logits.shape == best.shape and part.top.log_sum_exp.shape == (count,)
    return same and len(best) == count and bool(best.min() >= 0 and best.max() < vocab_size)


def _can_be_compared(found: Beams) -> bool:
    """Return whether there is a score of each text, and a largest logit that measures errors."""
    return (
        bool(found.texts) and found.scores.shape == (len(found.texts),) and 0 < found.scale < np.inf
    )


def _reads(info: ModelInfo, source: Ids | None) -> bool:
    """Return whether the encoder can read a source; without one there must be none."""
    if source is None or info.encoder is None:
        return source is None and info.encoder is None
    return _fits(source, info.encoder.vocab_size, info.encoder.block_size)
