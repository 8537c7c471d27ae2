"""Texts that are being written, and the rows of a state that hold them.

Texts come and go one by one: each is admitted into the next free row, all are advanced together,
and when one is released the last row moves into its place, so that rows in use are always 0 ..
n - 1 and a step pays for these only. A text gets the same tokens alone, in a batch, or joining
later.

When a text outgrows the context, the model is given its last part only. Where that part begins
depends on the length of the text and on nothing else: with a context of S tokens and a stride of
S - S // 2, a text of n tokens is seen from

    window_start(n) = 0                                    if n <= S
                      stride * ceil((n - S) / stride)      otherwise

so that a full window gives way to its last S // 2 tokens, which are fed again from position 0.
Greedy generation in two calls, the second one with the first one's text as its prompt, therefore
sees the same windows as one longer call does.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engines.base import State
from ..engines.candidates import Candidates
from ..errors import InvalidInputError
from .prefill import last_logits, pad
from .sampling import Choice

__all__ = ["FinishReason", "Outcome", "Rows", "Text", "series_of", "window_start"]

FinishReason = Literal["length", "stop", "eos", "context"]
Logits = NDArray[np.float32]
Outcome = Logits | Candidates  # what a token leads to: logits [V], or the best of them


@dataclass(eq=False)
class Text:
    """One text being written: its prompt, what was added, and why it ended.

    Attributes:
        ids: the prompt's ids, then the new ones.
        prompt_length: how many of them are the prompt's.
        seed: 64-bit key of its random numbers.
        series: 64-bit number that tells its random numbers from others under that key.
        finish_reason: None while it is being written. Setting it ends the text.
        first_near_tie: first new token that another engine within the tolerance could have chosen
            differently, counted from 0; None if there was none.
    """

    ids: list[int]
    prompt_length: int = field(init=False)
    seed: int
    series: int
    finish_reason: FinishReason | None = None
    first_near_tie: int | None = None

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def new_ids(self) -> list[int]:
        """Ids after the prompt."""
        return self.ids[self.prompt_length :]

    def forked(self, series: int) -> "Text":
        """Return a text that goes on from here with other random numbers, under the same seed."""
        copy = Text(list(self.ids), self.seed, series, None, self.first_near_tie)
        copy.prompt_length = self.prompt_length
        return copy

    def add(self, choice: Choice) -> None:
        """Append a token, and remember the first near tie."""
        if self.first_near_tie is None and choice.near_tie:
            self.first_near_tie = len(self.ids) - self.prompt_length
        self.ids.append(choice.token)


def series_of(ids: list[int]) -> int:
    """Return the number of a prompt's series of random numbers: a hash of the prompt's ids."""
    digest = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()
    return int.from_bytes(digest[:8], "little")


def window_start(length: int, context: int) -> int:
    """Return the index of the first token that the model sees of a text of `length` tokens."""
    if length <= context:
        return 0
    stride = context - context // 2
    return stride * -((context - length) // stride)


class Rows:
    """The texts on a state: `texts[i]` is in row i.

    What a text's newest token leads to is a row of logits [V], or only the best `candidates` of
    them where the engine can pick those out more cheaply (see `Sampling.candidates`); valid until
    the next call.
    """

    def __init__(self, state: State, candidates: int = 0) -> None:
        """Begin with no texts; what the state's rows hold does not matter."""
        self.state, self.candidates = state, candidates
        self.texts: list[Text] = []
        self.starts: list[int] = []  # of the part of each text that is in the cache

    def admit(self, texts: Sequence[Text]) -> Logits:
        """Feed texts into the next rows, as one batch; return the last logits of each [N, V].

        The texts that are there already keep what they have.

        Raises:
            InvalidInputError: if there are not so many free rows, or a text is empty, or there is
                none.
        """
        if not texts:
            raise InvalidInputError("there is no text to admit")
        first, context = len(self.texts), self.state.context
        if not all(text.ids for text in texts):
            raise InvalidInputError("a text without any token cannot be continued")
        starts = [window_start(len(text.ids), context) for text in texts]
        parts = [text.ids[start:] for text, start in zip(texts, starts, strict=True)]
        logits = last_logits(self.state, *pad(parts), first=first)
        self.texts += texts
        self.starts += starts
        return logits

    def advance(self) -> Sequence[Outcome]:
        """Feed the newest token of every text; return what it leads to, in the order of the rows.

        A text whose window has to slide is fed again by itself.
        """
        state, slid = self.state, self._slide()
        for row, text in enumerate(self.texts):
            state.next_ids[row, 0] = text.ids[-1]
            state.past_len[row] = len(text.ids) - self.starts[row] - 1
        if len(slid) == len(self.texts):
            return [slid[row] for row in range(len(self.texts))]
        # A row that slid takes part: its newest token goes once more where it is.
        state.decode(len(self.texts))
        best = state.topk(self.candidates) if self.candidates else None
        found: Sequence[Outcome]
        found = list(state.logits()[:, 0]) if best is None else [row[0] for row in best]
        return [slid.get(row, own) for row, own in enumerate(found)] if slid else found

    def advance_over(self, draft: Sequence[int]) -> Sequence[Outcome]:
        """Feed the newest token of the only text and `draft` after it; return what each leads to.

        The cache must have `room` for the draft.
        """
        (text,) = self.texts
        ids = np.array([[text.ids[-1], *draft]])  # (1, T)
        past_len = np.array([len(text.ids) - self.starts[0] - 1])
        self.state.step(ids, past_len, np.arange(ids.shape[1])[None])
        best = self.state.topk(self.candidates) if self.candidates else None
        return list(self.state.logits()[0]) if best is None else best[0]

    def room(self) -> int:
        """Return how many tokens the cache takes behind the newest one of the first text."""
        return self.state.context - (len(self.texts[0].ids) - self.starts[0])

    def release(self, texts: Sequence[Text]) -> None:
        """Give up the rows of `texts`; last rows move into the places of earlier ones.

        A text whose logits were no numbers leaves some in its row, which others may read: it ends
        the use of the whole state.
        """
        gone = {id(text) for text in texts}
        parents = [row for row, text in enumerate(self.texts) if id(text) not in gone]
        count = len(parents)
        moving = [row for row in parents if row >= count]
        staying = set(parents)
        parents = [row if row in staying else moving.pop() for row in range(count)]
        self.reorder(parents, [self.texts[row] for row in parents])

    def fork(self, text: Text, series: int) -> Text:
        """Return a copy of `text` in a row of its own; see `Text.forked`.

        Raises:
            InvalidInputError: if there is no free row, or `text` is in none.
        """
        row = next((row for row, one in enumerate(self.texts) if one is text), None)
        if row is None:
            raise InvalidInputError("only a text that is in a row can be forked")
        copy = text.forked(series)
        self.reorder([*range(len(self.texts)), row], [*self.texts, copy])
        return copy

    def reorder(self, parents: Sequence[int], texts: Sequence[Text]) -> None:
        """Let row i go on with `texts[i]` from the cache of row `parents[i]`.

        Each text has the ids of its parent, and perhaps one that was not fed yet.

        Raises:
            InvalidInputError: if there is no such row, or another number of texts.
        """
        count = len(self.texts)
        if len(parents) != len(texts) or not all(0 <= row < count for row in parents):
            raise InvalidInputError(
                f"{len(texts)} texts cannot go on from the rows {list(parents)} of {count}"
            )
        if parents:
            moving = [row for place, row in enumerate(parents) if row != place]
            fed = [len(self.texts[row].ids) - self.starts[row] for row in moving]
            self.state.reorder(parents, min(max(fed, default=0), self.state.context))
        self.starts = [self.starts[row] for row in parents]
        self.texts = list(texts)

    def _slide(self) -> dict[int, Logits]:
        """Feed again the texts whose windows are full; return the last logits [V] by their rows.

        Neighbours are fed as one batch.
        """
        context, slid = self.state.context, {}
        full = [
            row
            for row, (text, start) in enumerate(zip(self.texts, self.starts, strict=True))
            if len(text.ids) - start > context
        ]
        # Neighbouring rows have the same difference to their places in the list.
        for _, group in groupby(enumerate(full), key=lambda pair: pair[1] - pair[0]):
            rows = [row for _, row in group]
            starts = [window_start(len(self.texts[row].ids), context) for row in rows]
            parts = [self.texts[row].ids[start:] for row, start in zip(rows, starts, strict=True)]
            logits = last_logits(self.state, *pad(parts), first=rows[0])
            for row, start, own in zip(rows, starts, logits, strict=True):
                self.starts[row], slid[row] = start, own
        return slid
