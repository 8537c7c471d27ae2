"""Edits of the scores of the next token: what is forbidden, forced, or made less likely.

They are made one after another, in the order and by the rules of transformers' logits processors
(5.24, `generation/logits_process.py`). Greedy decoding and sampling edit logits; a beam search
edits log-probabilities, which are not normalised again.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.search import Search
from ..errors import InvalidInputError

__all__ = ["CountPenalty", "Edit", "LogitBias", "RepetitionPenalty", "edits_of", "forbidden"]

Scores = NDArray[np.floating[Any]]


class Edit(ABC):
    """One edit of scores."""

    @abstractmethod
    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Change the `scores` [V] of the token that follows `ids`, of which `step` are new."""

    def completes(self, ids: Sequence[int], step: int) -> bool:
        """Return whether a text with these `ids`, of which `step` are new, has to end now."""
        return False

    @property
    def stretch(self) -> float:
        """By how much the edit may at most enlarge the distance of two scores."""
        return 1.0


@dataclass(frozen=True)
class RepetitionPenalty(Edit):
    """Divides positive, multiplies negative scores of ids in the text, the prompt included.

    Source: Keskar et al. 2019, section 4.1.
    """

    penalty: float

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Change the scores of all ids that occur."""
        seen = np.unique(np.asarray(ids, dtype=np.int64))
        values, most = scores[seen].astype(np.float64), np.finfo(scores.dtype).max
        with np.errstate(over="ignore"):  # a product beyond the range is no id that is forbidden
            changed = np.where(values > 0, values / self.penalty, values * self.penalty)
        scores[seen] = np.where(np.isfinite(values), changed.clip(-most, most), values)

    @property
    def stretch(self) -> float:
        """The penalty, or its inverse."""
        return max(self.penalty, 1 / self.penalty)


@dataclass(frozen=True)
class LogitBias(Edit):
    """Adds a number to the scores of some ids."""

    bias: tuple[tuple[int, float], ...]

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Add them."""
        ids, numbers = zip(*self.bias, strict=True)
        scores[list(ids)] += np.array(numbers)


@dataclass(frozen=True)
class CountPenalty(Edit):
    """Lowers the scores of new ids: once by `presence`, and by `frequency` each time they occur.

    Unlike the repetition penalty it leaves out the prompt, as OpenAI's API does.
    """

    presence: float
    frequency: float

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Change the scores of the ids among the last `step` ones."""
        if step:
            new, counts = np.unique(np.asarray(ids[-step:], dtype=np.int64), return_counts=True)
            scores[new] -= self.presence + self.frequency * counts


@dataclass(frozen=True)
class NoRepeat(Edit):
    """Forbids what would complete a sequence of `size` ids that the text has, prompt included."""

    size: int

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Forbid what followed each earlier occurrence of the last `size` - 1 ids."""
        before = self.size - 1
        end = ids[len(ids) - before :]
        for place in _places(end[-1], ids) if before else range(-1, len(ids) - 1):
            if place + 1 >= before and ids[place + 1 - before : place + 1] == end:
                scores[ids[place + 1]] = -math.inf


@dataclass(frozen=True)
class BadWords(Edit):
    """Forbids the last id of each sequence whose other ids the text ends with."""

    words: tuple[tuple[int, ...], ...]

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Forbid what would complete a sequence."""
        for word in self.words:
            before = len(word) - 1
            if before <= len(ids) and tuple(ids[len(ids) - before :]) == word[:-1]:
                scores[word[-1]] = -math.inf


@dataclass(frozen=True)
class NotBefore(Edit):
    """Forbids the ids that end a text in the place of its first `count` new tokens."""

    end_ids: tuple[int, ...]
    count: int

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Forbid the end while the text is too short."""
        if step < self.count:
            scores[list(self.end_ids)] = -math.inf


@dataclass(frozen=True)
class Forced(Edit):
    """Forces the new token number `place`, counted from 0: its score is 0."""

    token: int
    place: int

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Forbid all others."""
        if step == self.place:
            scores[:] = -math.inf
            scores[self.token] = 0.0


def edits_of(search: Search, end_ids: frozenset[int], max_new_tokens: int) -> tuple[Edit, ...]:
    """Return the edits that the settings ask for, but for the repetition penalty, which is first.

    Args:
        search: the settings of the call.
        end_ids: ids that end a text; none of them, alone, is a bad word.
        max_new_tokens: the number of the token that may be forced to be the last.
    """
    edits: list[Edit] = []
    words = tuple(word for word in search.bad_words if word not in {(end,) for end in end_ids})
    if search.no_repeat_ngram_size:
        edits.append(NoRepeat(search.no_repeat_ngram_size))
    if words:
        edits.append(BadWords(words))
    if search.min_new_tokens and end_ids:
        edits.append(NotBefore(tuple(sorted(end_ids)), search.min_new_tokens))
    if search.forced_bos is not None:
        edits.append(Forced(search.forced_bos, 0))
    if search.forced_eos is not None:
        edits.append(Forced(search.forced_eos, max_new_tokens - 1))
    return tuple(edits)


def forbidden(step: int) -> InvalidInputError:
    """Return the error that tells that no id is allowed as new token number `step`."""
    return InvalidInputError(
        f"no_repeat_ngram_size, bad_words, min_new_tokens and the form (json_schema, regex) forbid "
        f"every id as new token {step}; loosen them, or lower max_new_tokens"
    )


def _places(token: int, ids: Sequence[int]) -> Iterator[int]:
    """Yield where `token` occurs in `ids`, but for the last place."""
    place = -1
    while True:
        try:
            place = ids.index(token, place + 1, len(ids) - 1)
        except ValueError:
            return
        yield place
