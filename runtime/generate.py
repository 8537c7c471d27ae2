"""The generation loop: prompts in, tokens out, one step at a time for a whole batch.

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
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .engines.base import Engine, State
from .prefill import last_logits, pad
from .sampling import Choice, Sampling, choose

__all__ = ["FinishReason", "Overflow", "Text", "generate_tokens", "stream_of", "window_start"]

Overflow = Literal["slide", "stop"]
FinishReason = Literal["length", "stop", "context"]


@dataclass
class Text:
    """One text being written: its prompt, what was added, and why it ended.

    Attributes:
        ids: the prompt's ids, then the new ones.
        prompt_length: how many of them are the prompt's.
        seed: 64-bit key of its random numbers.
        stream: 64-bit number of its random numbers under that key.
        finish_reason: None while it is being written. Setting it ends the text.
        first_near_tie: first new token that another engine within the tolerance could have chosen
            differently, counted from 0; None if there was none.
    """

    ids: list[int]
    prompt_length: int = field(init=False)
    seed: int
    stream: int
    finish_reason: FinishReason | None = None
    first_near_tie: int | None = None

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def new_ids(self) -> list[int]:
        """Ids after the prompt."""
        return self.ids[self.prompt_length :]

    def add(self, choice: Choice) -> None:
        """Append a token, and remember the first near tie."""
        if self.first_near_tie is None and choice.near_tie:
            self.first_near_tie = len(self.ids) - self.prompt_length
        self.ids.append(choice.token)


def stream_of(ids: list[int]) -> int:
    """Return the number of a prompt's random stream: it is a hash of the prompt's ids."""
    digest = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()
    return int.from_bytes(digest[:8], "little")


def window_start(length: int, context: int) -> int:
    """Return the index of the first token that the model sees of a text of `length` tokens."""
    if length <= context:
        return 0
    stride = context - context // 2
    return stride * -((context - length) // stride)


def generate_tokens(
    engine: Engine,
    texts: list[Text],
    *,
    context: int,
    max_new_tokens: int,
    sampling: Sampling,
    overflow: Overflow,
    tolerance: float,
) -> Iterator[tuple[int, int]]:
    """Write all texts to their end; yield (row, token) for each new token, row by row.

    The caller may end a text between two tokens by setting its `finish_reason`.

    Args:
        engine: what computes the logits.
        texts: at least one; each prompt has at least one token.
        context: how many tokens the model sees at once.
        max_new_tokens: at least 1.
        sampling: how to choose.
        overflow: what to do when a text outgrows the context; see the module's docstring.
        tolerance: of logits, relative to the largest; decides what a near tie is.
    """
    window = Window(engine.new_state(len(texts), context), texts)
    logits = window.fill()
    while True:
        for row, text in enumerate(texts):
            if text.finish_reason is not None:
                continue
            new = len(text.ids) - text.prompt_length
            choice = choose(
                logits[row],
                sampling,
                text.ids,
                seed=text.seed,
                stream=text.stream,
                step=new,
                tolerance=tolerance,
            )
            text.add(choice)
            yield row, choice.token
            if text.finish_reason is None and new + 1 == max_new_tokens:
                text.finish_reason = "length"
            elif text.finish_reason is None and overflow == "stop" and len(text.ids) > context:
                text.finish_reason = "context"
        if all(text.finish_reason for text in texts):
            return
        logits = window.advance()


class Window:
    """The part of each text that is in the cache."""

    def __init__(self, state: State, texts: list[Text]) -> None:
        self.state, self.texts = state, texts
        self.starts = [0] * len(texts)
        self.ids = np.zeros((len(texts), 1), dtype=np.int64)
        self.past_len = np.zeros(len(texts), dtype=np.int64)
        self.only_position = np.zeros((len(texts), 1), dtype=np.int64)

    def fill(self) -> NDArray[np.float32]:
        """Feed every text's window from position 0; return the last logits of each row [B, V]."""
        self.starts = [window_start(len(text.ids), self.state.context) for text in self.texts]
        rows = [
            text.ids[start:] if text.finish_reason is None else [0]
            for text, start in zip(self.texts, self.starts, strict=True)
        ]
        return last_logits(self.state, *pad(rows))

    def advance(self) -> NDArray[np.float32]:
        """Feed the newest token of each row; return the logits [B, V], valid until the next step.

        When a window has to slide, all rows are fed again.
        """
        for row, text in enumerate(self.texts):
            if text.finish_reason is not None:
                self.past_len[row] = 0  # a finished row's cache is free to be overwritten
                continue
            if window_start(len(text.ids), self.state.context) != self.starts[row]:
                return self.fill()
            self.ids[row, 0] = text.ids[-1]
            self.past_len[row] = len(text.ids) - self.starts[row] - 1
        self.state.step(self.ids, self.past_len, self.only_position)
        return self.state.logits()[:, 0]
