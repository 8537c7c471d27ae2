"""Texts that are being written, and the rows of a state that hold them.

Texts come and go one by one. Each text is admitted into the next free row, and all of them advance
together. When a text is released, the last row moves into its place. The rows in use are therefore
always 0 .. n - 1, and a step computes only these. A text gets the same tokens whether it is alone,
in a batch, or joins later.

When a text outgrows the context, the model sees only its last part. Where that part begins depends
only on the length of the text: with a context of S tokens and a stride of S - S // 2, a text of n
tokens is seen from

    window_start(n) = 0                                    if n <= S
                      stride * ceil((n - S) / stride)      otherwise

so that the last S // 2 tokens of a full window begin the next window: they are fed again from
position 0. Two greedy calls, the second with the text of the first as its prompt, therefore see
the same windows as one longer call.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engines.base import State
from ..errors import InvalidInputError
from .logprobs import TokenLogprob
from .prefill import last_logits, pad
from .sampling import Choice

__all__ = ["FinishReason", "Rows", "Text", "series_of", "window_start"]

FinishReason = Literal["length", "stop", "eos", "context", "closed", "time", "cancelled"]
Logits = NDArray[np.float32]


@dataclass(eq=False)
class Text:
    """One text being written: its prompt, what was added, and why it ended.

    Attributes:
        ids: the prompt's ids, then the new ones.
        prompt_length: how many of the ids belong to the prompt.
        seed: 64-bit key of its random numbers.
        series: 64-bit number that tells its random numbers from others under that key.
        finish_reason: None while the text is being written. Setting it ends the text.
        first_near_tie: the first new token, counted from 0, in whose place another engine within
            the tolerance could have chosen a different one; None if there was none.
        logprobs: of each new token, if they are wanted.
    """

    ids: list[int]
    prompt_length: int = field(init=False)
    seed: int
    series: int
    finish_reason: FinishReason | None = None
    first_near_tie: int | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def new_ids(self) -> list[int]:
        """Ids after the prompt."""
        return self.ids[self.prompt_length :]

    def forked(self, series: int) -> "Text":
        """Return a copy that continues with other random numbers under the same seed."""
        copy = Text(list(self.ids), self.seed, series, None, self.first_near_tie)
        copy.prompt_length, copy.logprobs = self.prompt_length, list(self.logprobs)
        return copy

    def add(self, choice: Choice) -> None:
        """Append a token, and remember the first near tie."""
        if self.first_near_tie is None and choice.near_tie:
            self.first_near_tie = len(self.ids) - self.prompt_length
        if choice.logprob is not None:
            self.logprobs.append(choice.logprob)
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

    Feeding a text's newest token gives its logits [V]. They are valid until the next call.
    """

    def __init__(self, state: State, between: Callable[[], None] = lambda: None) -> None:
        """Begin with no texts; the contents of the state's rows do not matter.

        `between` is called before each piece of a prompt.
        """
        self.state, self.between = state, between
        self.texts: list[Text] = []
        self.starts: list[int] = []  # index of the first token of each text that is in the cache

    def admit(self, texts: Sequence[Text]) -> Logits:
        """Feed texts into the next rows, as one batch; return the last logits of each [N, V].

        The texts that were admitted before keep their rows.

        Raises:
            InvalidInputError: if there are too few free rows, a text is empty, or there is no text.
        """
        if not texts:
            raise InvalidInputError("there is no text to admit")
        first, context = len(self.texts), self.state.context
        if not all(text.ids for text in texts):
            raise InvalidInputError("a text without any token cannot be continued")
        starts = [window_start(len(text.ids), context) for text in texts]
        parts = [text.ids[start:] for text, start in zip(texts, starts, strict=True)]
        logits = last_logits(self.state, *pad(parts), first=first, between=self.between)
        self.texts += texts
        self.starts += starts
        return logits

    def advance(self) -> Logits:
        """Feed the newest token of every text; return the logits [N, V] in the order of the rows.

        Texts whose windows have to slide are fed again first.
        """
        state, full = self.state, []
        for row, text in enumerate(self.texts):
            past = len(text.ids) - self.starts[row] - 1
            if past == state.context:
                full.append(row)
            state.next_ids[row, 0] = text.ids[-1]
            state.past_len[row] = past
        if not full:
            state.decode(len(self.texts))
            return state.logits()[:, 0]  # (N, V)
        slid = self._slide(full)
        if len(full) == len(self.texts):
            return slid
        # A row that slid takes part: its newest token is written to the same slot once more.
        state.decode(len(self.texts))
        logits = state.logits()[:, 0].copy()  # (N, V)
        logits[full] = slid
        return logits

    def advance_over(self, draft: Sequence[int]) -> Logits:
        """Feed the newest token of the only text, then `draft`; return the logits of each [T, V].

        The cache must have `room` for the draft.
        """
        (text,) = self.texts
        ids = np.array([[text.ids[-1], *draft]])  # (1, T)
        past_len = np.array([len(text.ids) - self.starts[0] - 1])
        self.state.step(ids, past_len, np.arange(ids.shape[1])[None])
        logits: Logits = self.state.logits()[0]  # (T, V)
        return logits

    def room(self) -> int:
        """Return how many tokens fit the cache behind the newest token of the first text."""
        return self.state.context - (len(self.texts[0].ids) - self.starts[0])

    def release(self, texts: Sequence[Text]) -> None:
        """Free the rows of `texts`; the last rows move into the gaps.

        A text whose logits were NaN leaves NaN in the cache of its row, where other texts may read
        it. The whole state must not be used any more then.
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
            InvalidInputError: if there is no free row, or `text` is in no row.
        """
        row = next((row for row, one in enumerate(self.texts) if one is text), None)
        if row is None:
            raise InvalidInputError("only a text that is in a row can be forked")
        copy = text.forked(series)
        self.reorder([*range(len(self.texts)), row], [*self.texts, copy])
        return copy

    def reorder(self, parents: Sequence[int], texts: Sequence[Text]) -> None:
        """Continue `texts[i]` in row i, from the cache of row `parents[i]`.

        Each text has the ids of its parent, and perhaps one more that was not fed yet.

        Raises:
            InvalidInputError: if a parent is not a row in use, or if there are more or fewer
                parents than texts.
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

    def _slide(self, full: list[int]) -> Logits:
        """Feed the texts in these rows, which are full, once more; return their last logits [N, V].

        Neighbouring rows are fed as one batch.
        """
        slid = []
        # For neighbouring rows, row number minus index in the list is the same.
        for _, group in groupby(enumerate(full), key=lambda pair: pair[1] - pair[0]):
            rows = [row for _, row in group]
            texts = [self.texts[row].ids for row in rows]
            starts = [window_start(len(ids), self.state.context) for ids in texts]
            parts = [ids[start:] for ids, start in zip(texts, starts, strict=True)]
            slid.append(last_logits(self.state, *pad(parts), first=rows[0]))
            for row, start in zip(rows, starts, strict=True):
                self.starts[row] = start
                self.state.past_len[row] = len(self.texts[row].ids) - start - 1
        return np.concatenate(slid)
