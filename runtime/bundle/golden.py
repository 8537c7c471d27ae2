"""The golden vectors of a bundle: PyTorch's results, with which engines are compared.

`edgegpt.export.golden` writes them, `verify` reads them. The safetensors file holds the arrays

    prefill.<i>.ids [T], prefill.<i>.logits [T, V]     a prompt and all its logits
    chunked.ids [T], .sizes [N], .logits [T, V]        a prompt to be fed in N pieces
    past.<cache> [K, M, D]                             what M tokens leave in each cache, float16
    far.<i>.ids [T], .past_len [1], .logits [T, V]     a prompt after past_len slots made of these
    ragged.<row>.ids [T_row], .logits [T_row, V]       rows of one batch, of different lengths
    continuation.<row>.ids [steps], .logits [steps, V], .margins [steps]
                                                       what greedy decoding adds to each row
    <prompt>.source [N]                                the source of an encoder-decoder's prompt
    <...>.top_ids [N, K], .log_sum_exp [N]             present if logits are [N, K]: with a large
                                                       vocabulary only the best K are kept
    quality.<i>.ids [T + 1], .logits [T, V]            a held-out text, and the logits of the model
                                                       before it was quantised; absent in float32
    tokenizer.text, tokenizer.ids, tokenizer.vocabulary
                                                       a text (UTF-8 bytes), its ids, and the text
                                                       of all ids in order; absent if the model has
                                                       no tokenizer
    beams.<i>.source [N], .ids [K, longest], .scores [K], .facts [2]
                                                       the best texts of a beam search over a source
                                                       (their ends filled up with -1), their scores,
                                                       the largest logit, and whether it was close
    source_tokenizer.<...>                             the same of the sources' tokenizer, if they
                                                       have one of their own
    rounded [1]                                        there if the results are those of the weights
                                                       and factors as the graphs have them, in 16
                                                       bits
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import BundleError

__all__ = ["Beams", "Continuation", "Golden", "Prompt", "TokenizerSample", "Top"]

FILL = -1  # behind the end of a text

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Top:
    """Present if only the K best logits of each position are kept: their ids [N, K], and the
    log-sum-exp [N] of all V logits, which also changes when a logit that is not kept changes.
    """

    ids: NDArray[np.integer[Any]]
    log_sum_exp: NDArray[np.float32]

    def rows(self, first: int, end: int) -> "Top":
        """Return the part that belongs to positions first .. end - 1."""
        return Top(self.ids[first:end], self.log_sum_exp[first:end])


@dataclass(frozen=True)
class Prompt:
    """Token ids [T] and PyTorch's logits for each of them, [T, V] or, with `top`, [T, K].

    The ids follow `past_len` slots of keys and values: see `proof.far_past`. `source` has the ids
    [N] of the source that an encoder-decoder reads; other models have none.
    """

    ids: Ids
    logits: Logits
    top: Top | None = None
    past_len: int = 0
    source: Ids | None = None


@dataclass(frozen=True)
class Continuation:
    """Greedy tokens after a prompt: ids [N]; the logits that chose them, [N, V] or, with `top`,
    [N, K]; and their margins over the second best logit, [N].
    """

    ids: Ids
    logits: Logits
    margins: NDArray[np.float32]
    top: Top | None = None


@dataclass(frozen=True)
class TokenizerSample:
    """What the tokenizer did at export: a text, its ids, and the text of all ids in order."""

    text: str
    ids: Ids
    vocabulary: str


@dataclass(frozen=True)
class Beams:
    """What a beam search in PyTorch made of a source: see `proof.beams`.

    Attributes:
        source: ids of the source [N].
        texts: new ids of the best texts, the best first.
        scores: float32 [K], their scores.
        scale: the largest magnitude of a logit on the way.
        near_tie: whether another engine within the float32 tolerance may find other texts.
    """

    source: Ids
    texts: list[Ids]
    scores: NDArray[np.float32]
    scale: float
    near_tie: bool


@dataclass(frozen=True)
class Golden:
    """All golden vectors. `ragged` and `continuations` have one entry per row, in order.

    `past` has what a few tokens leave in each cache, float16 [K, M, D]: of each layer keys, then
    values. `quality` has windows of held-out text, with the logits of the model before it was
    quantised. The last id of a window is only predicted. Everything else comes from the model
    as exported. `source_tokenizer` is given if sources have a tokenizer of their own. `rounded` is
    whether a model in 16 bits was first rounded to these, and its factors need no rounding; earlier
    exports did not round.
    """

    prefill: list[Prompt]
    chunked: Prompt
    chunk_sizes: list[int]
    ragged: list[Prompt]
    continuations: list[Continuation]
    far: list[Prompt]
    past: list[NDArray[np.float16]]
    tokenizer: TokenizerSample | None = None
    quality: list[Prompt] = field(default_factory=list)
    source_tokenizer: TokenizerSample | None = None
    beams: list[Beams] = field(default_factory=list)
    rounded: bool = False

    def save(self, path: Path) -> None:
        """Write the file."""
        tensors: dict[str, NDArray[Any]] = {
            "chunked.sizes": np.array(self.chunk_sizes, dtype=np.int64)
        }
        named: dict[str, Prompt | Continuation] = {"chunked": self.chunked}
        named |= {f"prefill.{index}": prompt for index, prompt in enumerate(self.prefill)}
        named |= {f"ragged.{row}": prompt for row, prompt in enumerate(self.ragged)}
        named |= {f"continuation.{row}": added for row, added in enumerate(self.continuations)}
        named |= {f"far.{index}": prompt for index, prompt in enumerate(self.far)}
        named |= {f"quality.{index}": window for index, window in enumerate(self.quality)}
        for name, part in named.items():
            tensors[f"{name}.ids"] = part.ids
            tensors[f"{name}.logits"] = part.logits
            if part.top is not None:
                tensors[f"{name}.top_ids"] = part.top.ids
                tensors[f"{name}.log_sum_exp"] = part.top.log_sum_exp
            if isinstance(part, Continuation):
                tensors[f"{name}.margins"] = part.margins
            elif part.source is not None:
                tensors[f"{name}.source"] = part.source
        for index, prompt in enumerate(self.far):
            tensors[f"far.{index}.past_len"] = np.array([prompt.past_len], dtype=np.int64)
        tensors |= {f"past.{cache}": values for cache, values in enumerate(self.past)}
        for index, found in enumerate(self.beams):
            tensors |= _of_beams(f"beams.{index}", found)
        samples = {"tokenizer": self.tokenizer, "source_tokenizer": self.source_tokenizer}
        for name, sample in samples.items():
            if sample is not None:
                tensors[f"{name}.ids"] = sample.ids
                tensors[f"{name}.text"] = _bytes_of(sample.text)
                tensors[f"{name}.vocabulary"] = _bytes_of(sample.vocabulary)
        if self.rounded:
            tensors["rounded"] = np.ones(1, dtype=np.uint8)
        path.write_bytes(save(tensors))  # save_file hides the error of a full disk

    @classmethod
    def load(cls, path: Path) -> "Golden":
        """Read the file; a damaged file raises `BundleError`.

        It is read and not mapped into memory: some network and FUSE file systems cannot do that.
        """
        try:
            tensors = load(path.read_bytes())
            for group in ("prefill", "ragged", "continuation", "far"):
                if f"{group}.0.ids" not in tensors:
                    raise BundleError(f"{path} is damaged: it has no {group}.0.ids")
            return cls(
                prefill=_prompts(tensors, "prefill"),
                chunked=_prompt(tensors, "chunked"),
                chunk_sizes=[int(size) for size in tensors["chunked.sizes"]],
                ragged=_prompts(tensors, "ragged"),
                continuations=[
                    Continuation(
                        tensors[f"continuation.{row}.ids"],
                        tensors[f"continuation.{row}.logits"],
                        tensors[f"continuation.{row}.margins"],
                        _top(tensors, f"continuation.{row}"),
                    )
                    for row in range(_count(tensors, "continuation"))
                ],
                far=[
                    replace(prompt, past_len=int(tensors[f"far.{index}.past_len"][0]))
                    for index, prompt in enumerate(_prompts(tensors, "far"))
                ],
                past=[tensors[f"past.{cache}"] for cache in range(_caches(tensors))],
                tokenizer=_tokenizer_sample(tensors, "tokenizer"),
                quality=_prompts(tensors, "quality"),
                source_tokenizer=_tokenizer_sample(tensors, "source_tokenizer"),
                beams=[
                    _beams(tensors, f"beams.{index}") for index in range(_count(tensors, "beams"))
                ],
                rounded="rounded" in tensors,
            )
        except (SafetensorError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise BundleError(f"{path} is damaged: {error}") from error


def _of_beams(name: str, found: Beams) -> dict[str, NDArray[Any]]:
    """Return the arrays of a search."""
    longest = max(len(text) for text in found.texts)
    ids = np.full((len(found.texts), longest), FILL, dtype=np.int64)
    for row, text in zip(ids, found.texts, strict=True):
        row[: len(text)] = text
    facts = np.array([found.scale, found.near_tie], dtype=np.float32)
    parts: dict[str, NDArray[Any]] = {
        "source": found.source,
        "ids": ids,
        "scores": found.scores,
        "facts": facts,
    }
    return {f"{name}.{part}": array for part, array in parts.items()}


def _beams(tensors: dict[str, NDArray[Any]], name: str) -> Beams:
    scale, near = tensors[f"{name}.facts"].tolist()
    return Beams(
        source=tensors[f"{name}.source"],
        texts=[row[row != FILL] for row in tensors[f"{name}.ids"]],
        scores=tensors[f"{name}.scores"],
        scale=scale,
        near_tie=bool(near),
    )


def _bytes_of(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _tokenizer_sample(tensors: dict[str, NDArray[Any]], group: str) -> TokenizerSample | None:
    if f"{group}.ids" not in tensors:
        return None
    text, vocabulary = (tensors[f"{group}.{name}"].tobytes() for name in ("text", "vocabulary"))
    return TokenizerSample(text.decode(), tensors[f"{group}.ids"], vocabulary.decode())


def _prompts(tensors: dict[str, NDArray[Any]], group: str) -> list[Prompt]:
    return [_prompt(tensors, f"{group}.{index}") for index in range(_count(tensors, group))]


def _prompt(tensors: dict[str, NDArray[Any]], name: str) -> Prompt:
    return Prompt(
        tensors[f"{name}.ids"],
        tensors[f"{name}.logits"],
        _top(tensors, name),
        source=tensors.get(f"{name}.source"),
    )


def _top(tensors: dict[str, NDArray[Any]], name: str) -> Top | None:
    if f"{name}.top_ids" not in tensors:
        return None
    return Top(tensors[f"{name}.top_ids"], tensors[f"{name}.log_sum_exp"])


def _caches(tensors: dict[str, NDArray[Any]]) -> int:
    return sum(name.startswith("past.") for name in tensors)


def _count(tensors: dict[str, NDArray[Any]], group: str) -> int:
    return sum(name.startswith(f"{group}.") and name.endswith(".ids") for name in tensors)
