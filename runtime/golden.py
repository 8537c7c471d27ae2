"""The golden vectors of a bundle: what PyTorch computed, for engines to be compared with.

Written by `edgegpt.export.golden`, read by `verify`. The file is a safetensors file with arrays

    prefill.<i>.ids [T], prefill.<i>.logits [T, V]     a prompt and all its logits
    chunked.ids [T], .sizes [N], .logits [T, V]        a prompt to be fed in N pieces
    ragged.<row>.ids [T_row], .logits [T_row, V]       rows of one batch, of different length
    continuation.<row>.ids [steps], .logits [steps, V], .margins [steps]
                                                       what greedy decoding adds to each row
    tokenizer.text, tokenizer.ids, tokenizer.vocabulary
                                                       a text (UTF-8 bytes), its ids, and what all
                                                       ids in order decode to; absent without one
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .errors import BundleError

__all__ = ["Continuation", "Golden", "Prompt", "TokenizerSample"]

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Prompt:
    """Token ids [T] and PyTorch's logits for each of them [T, V]."""

    ids: Ids
    logits: Logits


@dataclass(frozen=True)
class Continuation:
    """Greedy tokens after a prompt: ids [N]; the logits [N, V] that chose them; their leads [N]."""

    ids: Ids
    logits: Logits
    margins: NDArray[np.float32]


@dataclass(frozen=True)
class TokenizerSample:
    """What the tokenizer did at export: a text, its ids, and the text of all ids in order."""

    text: str
    ids: Ids
    vocabulary: str


@dataclass(frozen=True)
class Golden:
    """All golden vectors. `ragged` and `continuations` have one entry per row, in order."""

    prefill: list[Prompt]
    chunked: Prompt
    chunk_sizes: list[int]
    ragged: list[Prompt]
    continuations: list[Continuation]
    tokenizer: TokenizerSample | None = None

    def save(self, path: Path) -> None:
        """Write the file."""
        tensors: dict[str, NDArray[Any]] = {
            "chunked.ids": self.chunked.ids,
            "chunked.logits": self.chunked.logits,
            "chunked.sizes": np.array(self.chunk_sizes, dtype=np.int64),
        }
        for group, prompts in (("prefill", self.prefill), ("ragged", self.ragged)):
            for index, prompt in enumerate(prompts):
                tensors[f"{group}.{index}.ids"] = prompt.ids
                tensors[f"{group}.{index}.logits"] = prompt.logits
        for row, continuation in enumerate(self.continuations):
            tensors[f"continuation.{row}.ids"] = continuation.ids
            tensors[f"continuation.{row}.logits"] = continuation.logits
            tensors[f"continuation.{row}.margins"] = continuation.margins
        if self.tokenizer is not None:
            tensors["tokenizer.ids"] = self.tokenizer.ids
            tensors["tokenizer.text"] = _bytes_of(self.tokenizer.text)
            tensors["tokenizer.vocabulary"] = _bytes_of(self.tokenizer.vocabulary)
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> "Golden":
        """Read the file; a damaged one is a `BundleError`."""
        try:
            tensors = load_file(path)
            return cls(
                prefill=_prompts(tensors, "prefill"),
                chunked=Prompt(tensors["chunked.ids"], tensors["chunked.logits"]),
                chunk_sizes=[int(size) for size in tensors["chunked.sizes"]],
                ragged=_prompts(tensors, "ragged"),
                continuations=[
                    Continuation(
                        tensors[f"continuation.{row}.ids"],
                        tensors[f"continuation.{row}.logits"],
                        tensors[f"continuation.{row}.margins"],
                    )
                    for row in range(_count(tensors, "continuation"))
                ],
                tokenizer=_tokenizer_sample(tensors),
            )
        except (SafetensorError, OSError, KeyError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is damaged: {error}") from error


def _bytes_of(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _tokenizer_sample(tensors: dict[str, NDArray[Any]]) -> TokenizerSample | None:
    if "tokenizer.ids" not in tensors:
        return None
    text, vocabulary = (tensors[f"tokenizer.{name}"].tobytes() for name in ("text", "vocabulary"))
    return TokenizerSample(text.decode(), tensors["tokenizer.ids"], vocabulary.decode())


def _prompts(tensors: dict[str, NDArray[Any]], group: str) -> list[Prompt]:
    return [
        Prompt(tensors[f"{group}.{index}.ids"], tensors[f"{group}.{index}.logits"])
        for index in range(_count(tensors, group))
    ]


def _count(tensors: dict[str, NDArray[Any]], group: str) -> int:
    return sum(name.startswith(f"{group}.") and name.endswith(".ids") for name in tensors)
