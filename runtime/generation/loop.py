"""The generation loop: texts in, tokens out, one step at a time for all of them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Sources
from ..errors import InvalidInputError
from .beams import BeamRules
from .edits import Edit
from .limits import Halted, Limits
from .logprobs import logprob_of
from .rows import Rows, Text
from .sampling import Choice, Sampling, choose
from .speculation import MAX_DRAFT, Drafts, Pace

__all__ = ["Overflow", "Rules", "generate_tokens"]

Overflow = Literal["slide", "stop"]


@dataclass(frozen=True)
class Rules:
    """The settings that hold for all texts of a call.

    Attributes:
        context: how many tokens the model sees at once.
        max_new_tokens: at most this many tokens are added to a text.
        sampling: how to choose a token.
        overflow: when a text outgrows the context, "slide" goes on with its last part (see `rows`),
            "stop" ends it.
        tolerance: error of logits, relative to the largest; decides what a near tie is.
        stop: strings that end the generation as soon as one of them is complete.
        end_ids: token ids that end a text.
        speculate: how many tokens to draft at most (see `speculation`), for a single text at
            temperature 0; 0 for none.
        edits: edits of the logits, in order, after the one of `sampling`.
        beams: how to search for the best text; None: token by token (see `generate_tokens`).
        named: only ids below it can be chosen, since those from there on have no text; None: all
            ids can.
        logprobs: how many of the most likely tokens are told for each new one; None: nothing is.
        limits: what ends the call before its texts do.
        shown: special tokens that are part of the text.
    """

    context: int
    max_new_tokens: int
    sampling: Sampling
    overflow: Overflow
    tolerance: float
    stop: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    speculate: int = 0
    edits: tuple[Edit, ...] = ()
    beams: BeamRules | None = None
    named: int | None = None
    logprobs: int | None = None
    limits: Limits = field(default_factory=Limits)
    shown: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 0:
            raise InvalidInputError(
                f"max_new_tokens is {self.max_new_tokens!r}; it must be an int of 0 or more"
            )
        if not (isinstance(self.overflow, str) and self.overflow in get_args(Overflow)):
            raise InvalidInputError(f"overflow is {self.overflow!r}; it must be 'slide' or 'stop'")
        if type(self.speculate) is not int or not 0 <= self.speculate <= MAX_DRAFT:
            raise InvalidInputError(
                f"speculate is {self.speculate!r}; it must be a whole number from 0 to {MAX_DRAFT}"
            )
        if self.speculate and self.sampling.temperature != 0.0:
            raise InvalidInputError("speculate needs temperature 0 and a single prompt")

    def write(self, text: Text, logits: NDArray[np.float32]) -> int:
        """Choose the next token of `text` from its logits [V], and add it.

        The text ends if this token has to be its last.
        """
        choice = self.choose(text, logits)
        self.add(text, choice)
        return choice.token

    def choose(self, text: Text, logits: NDArray[np.float32]) -> Choice:
        """Choose the next token of `text` from its logits [V]."""
        choice = choose(
            logits,
            self.sampling,
            text.ids,
            seed=text.seed,
            series=text.series,
            step=len(text.ids) - text.prompt_length,
            tolerance=self.tolerance,
            edits=self.edits,
            named=self.named,
        )
        if self.logprobs is None:
            return choice
        return choice._replace(logprob=logprob_of(logits, choice.token, self.logprobs))

    def slots(self, engine: Engine, texts: Sequence[Text]) -> int:
        """Return how many slots a state of `engine` should have for these texts."""
        longest = max(len(text.ids) for text in texts)
        return engine.slots(longest + self.max_new_tokens, self.context)

    def add(self, text: Text, choice: Choice) -> None:
        """Add the chosen token to `text`, and end the text if the token has to be its last."""
        text.add(choice)
        step = len(text.ids) - text.prompt_length
        if choice.token in self.end_ids:
            text.finish_reason = "eos"
        elif any(edit.completes(text.ids, step) for edit in self.edits):
            text.finish_reason = "stop"
        elif step == self.max_new_tokens:
            text.finish_reason = "length"
        elif self.overflow == "stop" and len(text.ids) > self.context:
            text.finish_reason = "context"


def generate_tokens(
    engine: Engine,
    texts: list[Text],
    rules: Rules,
    pace: Pace | None = None,
    sources: Sources | None = None,
) -> Iterator[tuple[int, int]]:
    """Write all texts to their end; yield (index of the text, token) for each new token.

    The caller may end a text between two tokens by setting its `finish_reason`, and the `limits` of
    the rules end all of them.

    Args:
        engine: computes the logits.
        texts: at least one; each prompt has at least one token.
        rules: the settings for all texts; at least one token is to be added.
        pace: step times of earlier texts of this model; this call adds its own.
        sources: of an encoder-decoder, the source of each text.
    """
    with engine.new_state(len(texts), rules.slots(engine, texts), sources) as state:
        rows = Rows(state, rules.limits.check)
        try:
            logits = rows.admit(texts)
            if rules.speculate and len(texts) == 1:
                yield from _with_drafts(rows, logits, rules, pace or Pace())
            else:
                yield from _plainly(rows, logits, rules)
        except Halted as halted:
            for text in texts:
                text.finish_reason = text.finish_reason or halted.reason


def _plainly(rows: Rows, logits: NDArray[np.float32], rules: Rules) -> Iterator[tuple[int, int]]:
    """Write all texts of `rows`, one token of each at a time; `logits` are their last logits."""
    numbers = {id(text): number for number, text in enumerate(rows.texts)}
    while True:
        ended = False
        for text, own in zip(rows.texts, logits, strict=True):
            if text.finish_reason is None:
                yield numbers[id(text)], rules.write(text, own)
            ended = ended or text.finish_reason is not None
        if ended:
            rows.release([text for text in rows.texts if text.finish_reason is not None])
            if not rows.texts:
                return
        rules.limits.check()
        logits = rows.advance()


def _with_drafts(
    rows: Rows, found: NDArray[np.float32], rules: Rules, pace: Pace
) -> Iterator[tuple[int, int]]:
    """Write the only text of `rows`, checking drafted tokens in one step.

    A step over several tokens rounds differently from a step over a single token. Where this could
    change a choice, the logits of the drafted step are dropped, and a step over a single token
    decides.
    """
    (text,) = rows.texts
    drafts = Drafts()
    draft: list[int] = []
    seconds = 0.0
    while True:
        gained = 0
        for place, logits in enumerate(found):  # one for each token of the step
            choice = rules.choose(text, logits)
            if draft and choice.near_tie:
                break
            rules.add(text, choice)
            gained += 1
            yield 0, choice.token
            if text.finish_reason is not None:
                return
            if place < len(draft) and choice.token != draft[place]:
                break
        if seconds > 0.0:  # the prompt is not timed
            pace.note(seconds, gained, was_drafted=bool(draft))
        stuck = bool(draft) and gained == 0
        left = rules.max_new_tokens - len(text.new_ids) - 1
        room = min(rules.speculate, rows.room(), left)
        draft = []
        if room > 0 and not stuck and pace.wants_drafts():
            draft = drafts.propose(text.ids, room)
        rules.limits.check()
        begin = time.perf_counter()
        found = rows.advance_over(draft) if draft else rows.advance()
        seconds = time.perf_counter() - begin
