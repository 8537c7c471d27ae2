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
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, State
from ..engines.candidates import Candidates
from .prefill import last_logits, pad
from .sampling import Choice, Sampling, choose
from .speculation import Drafts, Pace

__all__ = ["FinishReason", "Overflow", "Text", "generate_tokens", "stream_of", "window_start"]

Overflow = Literal["slide", "stop"]
FinishReason = Literal["length", "stop", "context"]
Logits = NDArray[np.float32]


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


@dataclass(frozen=True)
class Rules:
    """What holds for all texts of a call; see `generate_tokens`."""

    context: int
    max_new_tokens: int
    sampling: Sampling
    overflow: Overflow
    tolerance: float

    def choose(self, text: Text, logits: Logits | Candidates) -> Choice:
        """Choose the next token of `text` from its logits [V], or from the best of them."""
        return choose(
            logits,
            self.sampling,
            text.ids,
            seed=text.seed,
            stream=text.stream,
            step=len(text.ids) - text.prompt_length,
            tolerance=self.tolerance,
        )

    def end(self, text: Text) -> None:
        """End the text if its newest token has to be its last."""
        if text.finish_reason is not None:
            return
        if len(text.ids) - text.prompt_length == self.max_new_tokens:
            text.finish_reason = "length"
        elif self.overflow == "stop" and len(text.ids) > self.context:
            text.finish_reason = "context"


def generate_tokens(
    engine: Engine,
    texts: list[Text],
    *,
    context: int,
    max_new_tokens: int,
    sampling: Sampling,
    overflow: Overflow,
    tolerance: float,
    speculate: int = 0,
    pace: Pace | None = None,
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
        speculate: how many tokens to draft at most (see `speculation`); only for a single text at
            temperature 0, and 0 for none.
        pace: what earlier texts of this model found out about drafting; it is added to.
    """
    rules = Rules(context, max_new_tokens, sampling, overflow, tolerance)
    with engine.new_state(len(texts), context) as state:
        window = Window(state, texts, sampling.candidates)
        if speculate and len(texts) == 1 and sampling.temperature == 0.0:
            yield from _with_drafts(window, rules, speculate, pace or Pace())
        else:
            yield from _plainly(window, rules)


def _plainly(window: "Window", rules: Rules) -> Iterator[tuple[int, int]]:
    """Write all texts of `window`, one token of each at a time."""
    texts = window.texts
    logits: Logits | list[Candidates] = window.fill()
    while True:
        for row, text in enumerate(texts):
            if text.finish_reason is not None:
                continue
            choice = rules.choose(text, logits[row])
            text.add(choice)
            yield row, choice.token
            rules.end(text)
        if all(text.finish_reason for text in texts):
            return
        logits = window.advance()


def _with_drafts(
    window: "Window", rules: Rules, count: int, pace: Pace
) -> Iterator[tuple[int, int]]:
    """Write the only text of `window`, checking up to `count` drafted tokens in one step.

    A step over several tokens rounds differently from one over a single token. Where that could
    decide, the drafted step's logits are not used, and a single step decides.
    """
    (text,) = window.texts
    drafts = Drafts()
    draft: list[int] = []
    rows: Logits | list[Candidates] = window.fill()  # one for each token of the step
    seconds = 0.0
    while True:
        gained = 0
        for place, logits in enumerate(rows):
            choice = rules.choose(text, logits)
            if draft and choice.near_tie:
                break
            text.add(choice)
            gained += 1
            yield 0, choice.token
            rules.end(text)
            if text.finish_reason is not None:
                return
            if place < len(draft) and choice.token != draft[place]:
                break
        if seconds > 0.0:  # not for the prompt
            pace.note(seconds, gained, was_drafted=bool(draft))
        stuck = bool(draft) and gained == 0
        room = min(count, window.room(), rules.max_new_tokens - len(text.new_ids) - 1)
        draft = []
        if room > 0 and not stuck and pace.wants_drafts():
            draft = drafts.propose(text.ids, room)
        begin = time.perf_counter()
        rows = window.advance_over(draft) if draft else window.advance()
        seconds = time.perf_counter() - begin


class Window:
    """The part of each text that is in the cache.

    What a step gives is a row of logits [V] for each text, or only the best `candidates` of them
    where the engine can pick those out more cheaply; valid until the next step.
    """

    def __init__(self, state: State, texts: list[Text], candidates: int) -> None:
        self.state, self.texts, self.candidates = state, texts, candidates
        self.starts = [0] * len(texts)

    def fill(self) -> Logits:
        """Feed every text's window from position 0; return the last logits of each row [B, V]."""
        self.starts = [window_start(len(text.ids), self.state.context) for text in self.texts]
        rows = [
            text.ids[start:] if text.finish_reason is None else [0]
            for text, start in zip(self.texts, self.starts, strict=True)
        ]
        return last_logits(self.state, *pad(rows))

    def advance(self) -> Logits | list[Candidates]:
        """Feed the newest token of each row; return what it gives.

        When a window has to slide, all rows are fed again.
        """
        state = self.state
        for row, text in enumerate(self.texts):
            if text.finish_reason is not None:
                state.past_len[row] = 0  # a finished row's cache is free to be overwritten
                continue
            past = len(text.ids) - self.starts[row] - 1
            if past >= state.context:
                return self.fill()
            state.next_ids[row, 0] = text.ids[-1]
            state.past_len[row] = past
        state.decode()
        best = state.topk(self.candidates) if self.candidates else None
        return state.logits()[:, 0] if best is None else [row[0] for row in best]

    def room(self) -> int:
        """Return how many tokens the cache takes behind the newest one of the first row."""
        return self.state.context - (len(self.texts[0].ids) - self.starts[0])

    def advance_over(self, draft: list[int]) -> Logits | list[Candidates]:
        """Feed the newest token of the only row and `draft` after it; return what each token gives.

        The cache must have `room` for the draft.
        """
        (text,) = self.texts
        ids = np.array([[text.ids[-1], *draft]])  # (1, T)
        past_len = np.array([len(text.ids) - self.starts[0] - 1])
        self.state.step(ids, past_len, np.arange(ids.shape[1])[None])
        best = self.state.topk(self.candidates) if self.candidates else None
        return self.state.logits()[0] if best is None else best[0]
