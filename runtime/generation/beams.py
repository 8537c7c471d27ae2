"""Beam search: logits in, and out come the rows from which the best texts go on.

The search is that of transformers (5.24, `GenerationMixin._beam_search`), token for token and score
for score. The score of a text is

    (sum of the log-probabilities of its new tokens) / (number of its new tokens) ** length_penalty

where an end id and forced ids count. In each step, the best (1 + number of end ids) * beams
continuations of all beams are candidates. A candidate that ends is a finished text if it is among
the first `beams` of them; the best that do not end are the next beams. At the last step, all end.
A text also ends with the token that completes a stop string. If so many candidates do that fewer
than `beams` are left, the others are not replaced.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle.search import EarlyStopping
from ..errors import NumericalError
from ..text.stops import Detokenizer
from .edits import Edit, forbidden
from .largest import largest, magnitude
from .limits import Reason

__all__ = ["BeamRules", "BeamSearch", "Hypothesis", "Moves"]

# The logarithm of no chance, as in transformers: finite, so that such texts can be ranked.
HOPELESS = -1e9

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BeamRules:
    """How to search.

    Attributes:
        count: beams, which are the texts that are followed side by side.
        returned: how many finished texts are wanted at most.
        length_penalty: the power of the length that divides the score: above 0 favours long texts.
        early_stopping: see `bundle.search.Search`.
    """

    count: int
    returned: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False


class Hypothesis(NamedTuple):
    """A finished text: its score, the sum of its log-probabilities, and its new ids."""

    score: float
    total: float
    ids: list[int]


class Moves(NamedTuple):
    """From which row each row goes on, and in how many slots they are equal already."""

    parents: list[int]
    since: int


class BeamSearch:
    """The search for the continuations of one prompt.

    Each beam has a row, and stays in the row of the text that it continues wherever it can.

    Attributes:
        texts: the ids of each beam, the prompt included.
        parted: int64 [beams, beams], in how many leading tokens, by descent, two beams are equal.
        finished: the best finished texts so far, the best first.
        watches: of each beam, what watches its new text for stop strings; empty if there are none.
        done: whether the search has ended.
        near_tie: whether logits within the tolerance could have led to other texts.
        halted: why the search had to end early; None: it did not.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        rules: BeamRules,
        *,
        steps: int,
        end_ids: frozenset[int] = frozenset(),
        edits: Sequence[Edit] = (),
        tolerance: float = 0.0,
        named: int | None = None,
        watch: Detokenizer | None = None,
    ) -> None:
        """Begin with `prompt`; add at most `steps` tokens, at least one.

        `tolerance` is the error of logits, relative to the largest. Only ids below `named` can be
        chosen; None: all can. `watch` begins behind the prompt, and finds stop strings.
        """
        self.named = named
        self.rules, self.steps, self.edits, self.tolerance = rules, steps, edits, tolerance
        self.prompt_length, self.step = len(prompt), 0
        self.end_ids = end_ids
        self.candidates = max(2, 1 + len(end_ids)) * rules.count
        self.texts = [list(prompt) for _ in range(rules.count)]
        # All beams are equal at first, so only one of them counts.
        self.totals: NDArray[np.float32] = np.full(rules.count, HOPELESS, dtype=np.float32)
        self.totals[0] = 0.0
        self.parted = np.full((rules.count, rules.count), len(prompt), dtype=np.int64)
        self.watches = [] if watch is None else [watch] * rules.count
        self.finished: list[Hypothesis] = []
        self.done = self.near_tie = False
        self.halted: Reason | None = None
        self.error = 0.0  # of the difference of two totals; errors of steps add up as squares

    def advance(self, logits: NDArray[np.float32]) -> Moves:
        """Add a token to each beam; return from which row each row goes on.

        Args:
            logits: float32 [beams, V] of the next tokens, row by row.

        Raises:
            NumericalError: if a logit is NaN or +inf, or all of a row are -inf.
            InvalidInputError: if the edits leave no text that could be returned.
        """
        scores = self._scores(logits)
        # One more than there are candidates, to see how close it comes to being one.
        best = largest(scores.reshape(-1), self.candidates + 1)  # of (beams * named,)
        totals, (parents, tokens) = scores.reshape(-1)[best], np.divmod(best, scores.shape[1])
        self.step += 1
        last = self.step == self.steps
        ended = np.array([last or token in self.end_ids for token in tokens.tolist()])
        watches = self._watched(parents.tolist(), tokens.tolist())
        if watches:
            ended |= [watch.stopped for watch in watches]
        self._note_close_ones(totals, ended)
        kept = slice(0, self.candidates)
        parents, tokens, totals, ended = parents[kept], tokens[kept], totals[kept], ended[kept]
        self._finish(parents, tokens, totals, ended)
        going = totals + np.float32(HOPELESS) * ended
        order = np.argsort(-going, kind="stable")[: self.rules.count]
        self.done = bool(ended.all()) or self._is_over(float(going[order[0]]))
        if self.done:
            if not self.best():
                raise forbidden(self.step - 1)
            return Moves(list(range(self.rules.count)), 0)
        order = order[_at_home(parents[order].tolist())]
        self.totals = going[order].astype(np.float32, copy=False)
        self.watches = [watches[place] for place in order] if watches else []
        return self._go_on(parents[order].tolist(), tokens[order].tolist())

    def end_soon(self, reason: Reason) -> None:
        """Let the next step be the last one, at which all texts end."""
        self.steps, self.halted = self.step + 1, reason

    def best(self) -> list[Hypothesis]:
        """Return the best finished texts, the best first; fewer if there are no more."""
        real = [one for one in self.finished if one.total > HOPELESS / 2]
        for better, worse in pairwise(real[: self.rules.returned + 1]):
            self._note(better.score - worse.score, len(better.ids))
        return real[: self.rules.returned]

    def _scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the totals of all continuations that can be chosen, float32 [beams, named]."""
        best = logits.max(axis=1, keepdims=True)
        if not np.isfinite(best).all():
            raise NumericalError(
                f"the logits for token {self.step} are not finite: the model or the engine is "
                f"broken; run `edgegpt verify` on the bundle"
            )
        scores: NDArray[np.float32] = logits - best
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        for own, ids in zip(scores, self.texts, strict=True):
            for edit in self.edits:
                edit.apply(own, ids, self.step)
        scores = scores[:, : self.named]
        scores += self.totals[:, None]
        error = 2 * self.tolerance * magnitude(logits, float(best.max()))
        self.error = math.hypot(self.error, error * math.prod(one.stretch for one in self.edits))
        return scores

    def _watched(self, parents: list[int], tokens: list[int]) -> list[Detokenizer]:
        """Return what watches each candidate; an end id is no part of the text."""
        if not self.watches:
            return []
        return [
            self.watches[parent] if token in self.end_ids else self.watches[parent].after(token)
            for parent, token in zip(parents, tokens, strict=True)
        ]

    def _finish(
        self, parents: Ints, tokens: Ints, totals: NDArray[np.float32], ended: NDArray[np.bool_]
    ) -> None:
        """Keep the best `count` of the texts that are finished or end in this step."""
        count, new = self.rules.count, []
        for rank in np.flatnonzero(ended[:count]).tolist():
            total = float(totals[rank])
            score = total / self._divisor(self.step)
            if score > HOPELESS:
                ids = [*self.texts[parents[rank]][self.prompt_length :], int(tokens[rank])]
                new.append(Hypothesis(score, total, ids))
        ranked = sorted([*self.finished, *new], key=lambda one: -one.score)
        if len(ranked) > count == self.rules.returned:
            self._note(ranked[count - 1].score - ranked[count].score, self.step)
        self.finished = ranked[:count]

    def _is_over(self, total: float) -> bool:
        """Return whether no beam can improve on the finished texts; the best has this `total`."""
        rules, full = self.rules, len(self.finished) == self.rules.count
        if full and rules.early_stopping is True:
            return True
        # A positive penalty favours long texts, so "never" hopes for the longest.
        hopeful = rules.early_stopping == "never" and rules.length_penalty > 0
        length = self.steps if hopeful else self.step
        possible = total / self._divisor(length)
        worst = self.finished[-1].score if full else HOPELESS
        if full:
            self._note(abs(possible - worst), length)
        return possible <= worst

    def _go_on(self, parents: list[int], tokens: list[int]) -> Moves:
        """Give each row the text of its parent with the token added."""
        moved = [(row, parent) for row, parent in enumerate(parents) if row != parent]
        since = min((int(self.parted[pair]) for pair in moved), default=0)
        self.texts = [
            [*self.texts[parent], token] for parent, token in zip(parents, tokens, strict=True)
        ]
        self.parted = self.parted[parents][:, parents]
        np.fill_diagonal(self.parted, len(self.texts[0]))
        return Moves(parents, since)

    def _divisor(self, length: int) -> float:
        divisor: float = float(length) ** self.rules.length_penalty
        return divisor

    def _note_close_ones(self, totals: NDArray[np.float32], ended: NDArray[np.bool_]) -> None:
        """Note a near tie if small errors could choose other beams, or end other texts."""
        count = self.rules.count
        real = totals > HOPELESS / 2
        totals, ended = totals[real], ended[real]
        if len(totals) <= count or (self.step == self.steps and self.rules.returned < count):
            return  # at the last step, texts behind the best do not matter
        going = totals[~ended]
        gaps = [going[count - 1] - going[count]] if len(going) > count else []
        gaps += list(totals[:count][ended[:count]] - totals[count])
        gaps += list(totals[count - 1] - totals[count:][ended[count:]])
        last = self.candidates
        if len(totals) > last and np.count_nonzero(~ended[:last]) < count:
            gaps.append(totals[last - 1] - totals[last])  # one more could have been a beam
        self.near_tie |= float(min(gaps, default=math.inf)) <= self.error

    def _note(self, gap: float, length: int) -> None:
        """Note a near tie if two scores of texts of this length are too close."""
        self.near_tie |= gap <= self.error / self._divisor(length)


def _at_home(parents: Sequence[int]) -> list[int]:
    """Return which child each row takes: the first of its own text, else one without a row."""
    rows: list[int | None] = [None] * len(parents)
    others = []
    for child, parent in enumerate(parents):
        if rows[parent] is None:
            rows[parent] = child
        else:
            others.append(child)
    return [others.pop(0) if child is None else child for child in rows]
