"""A text that is being written, as its reader sees it: pieces of text, times, and its result."""

from dataclasses import asdict, dataclass
from typing import Any

from ..text.stops import Detokenizer
from ..text.tokenizer import Tokenizer
from .logprobs import TokenLogprob
from .loop import Rules
from .rows import FinishReason, Text

__all__ = ["Result", "Timings", "Writing"]


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one text. The texts of a batch are made side by side.

    Attributes:
        first_token_s: from the call to its first token, the prompt included.
        total_s: from the call to its last token.
        new_tokens: its new tokens.
    """

    first_token_s: float
    total_s: float
    new_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens of this text per second, from the call on."""
        return self.new_tokens / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """The text generated for one prompt, without the prompt itself.

    Attributes:
        text: the new text up to a stop string or an end id; None if the bundle has no tokenizer.
        token_ids: all new ids, those of a stop string and an end id included.
        finish_reason: "length" (max_new_tokens), "stop" (a stop string, or the end of what
            `json_schema` or `regex` describe), "eos" (an end id),
            "context" (the text outgrew the context and overflow is "stop"), "closed" (the stream
            was closed before the text ended), "time" (max_time), "cancelled" (by `cancel`).
        timings: of this text.
        seed: the seed used, so that the text can be generated again.
        first_near_tie: the first new token, counted from 0, whose lead over the runner-up was so
            small that another engine may choose differently from there on; None if there was none.
            After a beam search, 0 or None: a choice that was so close may change the whole text.
        score: of a beam search: the sum of the log-probabilities of the new ids, divided by their
            number to the power of the length penalty; else None.
        hypotheses: of a beam search: the best texts, the best first, which is this one; else none.
        logprobs: of each of the `token_ids`, if they were asked for; else None.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int
    first_near_tie: int | None
    score: float | None = None
    hypotheses: tuple["Result", ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return asdict(self)


class Writing:
    """One text, the detokenizer that watches it, and its clock."""

    def __init__(self, text: Text, rules: Rules, tokenizer: Tokenizer | None) -> None:
        """Begin after the prompt of `text`; without a tokenizer there are ids only."""
        self.text, self.rules, self.written = text, rules, ""
        self.detokenizer: Detokenizer | None = None
        if tokenizer is not None:
            self.detokenizer = Detokenizer(tokenizer, rules.stop, text.ids, rules.shown)
        self.first_s = self.last_s = 0.0

    def take(self, token: int, now: float) -> str:
        """Take a new token, `now` seconds after the call; return the text that it makes certain.

        The text ends if that completes a stop string.
        """
        self.first_s, self.last_s = self.first_s or now, now
        if self.detokenizer is None or token in self.rules.end_ids:
            return ""
        piece = self.detokenizer.push(token)
        if self.detokenizer.stopped:
            self.text.finish_reason = "stop"
        self.written += piece
        return piece

    def finish(self) -> str:
        """Return the rest, which was held back for a stop string that did not come."""
        piece = "" if self.detokenizer is None else self.detokenizer.finish()
        self.written += piece
        return piece

    def result(self, otherwise: FinishReason) -> Result:
        """Return what there is of the text, whose end is `otherwise` if it has not ended itself."""
        text = self.text
        return Result(
            text=None if self.detokenizer is None else self.written,
            token_ids=text.new_ids,
            finish_reason=text.finish_reason or otherwise,
            timings=Timings(self.first_s, self.last_s, len(text.new_ids)),
            seed=text.seed,
            first_near_tie=text.first_near_tie,
            logprobs=None if self.rules.logprobs is None else tuple(text.logprobs),
        )
