"""One call of `generate` or `stream`: how it runs, and what it returns."""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from ..engines.base import Engine, Sources
from ..errors import InvalidInputError
from ..text.stops import Detokenizer
from ..text.tokenizer import Tokenizer
from .loop import Rules, generate_tokens
from .rows import FinishReason, Text
from .speculation import Pace

__all__ = ["Result", "Run", "Stream", "Timings"]


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one call; rows of a batch share them.

    Attributes:
        first_token_s: from the call to the first token, the prompt included.
        total_s: from the call to the last token.
        new_tokens: new tokens of all rows together.
    """

    first_token_s: float
    total_s: float
    new_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second, over the whole call."""
        return self.new_tokens / self.total_s if self.total_s > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """The text generated for one prompt, without the prompt itself.

    Attributes:
        text: the new text up to a stop string or an end id; None if the bundle has no tokenizer.
        token_ids: all new ids, those of a stop string and an end id included.
        finish_reason: "length" (max_new_tokens), "stop" (a stop string), "eos" (an end id),
            "context" (the text outgrew the context and overflow is "stop").
        timings: of the whole call.
        seed: the seed used, so that the text can be generated again.
        first_near_tie: the first new token, counted from 0, whose lead over the runner-up was so
            small that another engine may choose differently from there on; None if there was none.
            After a beam search, 0 or None: a choice that was so close may change the whole text.
        score: of a beam search: the sum of the log-probabilities of the new ids, divided by their
            number to the power of the length penalty; else None.
        hypotheses: of a beam search: the best texts, the best first, which is this one; else none.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int
    first_near_tie: int | None
    score: float | None = None
    hypotheses: tuple["Result", ...] = ()


class Run:
    """The texts of one call, the detokenizers that watch them, and the clock."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        texts: list[Text],
        rules: Rules,
        pace: Pace,
        sources: Callable[[], Sources] | None = None,
    ) -> None:
        """Note what to run; `sources` encodes the sources of the texts, if they have any."""
        self.sources = sources
        self.engine, self.texts, self.rules, self.pace = engine, texts, rules, pace
        self.detokenizers: list[Detokenizer] = []
        if tokenizer is not None:
            self.detokenizers = [Detokenizer(tokenizer, rules.stop, text.ids) for text in texts]
        self.written = [""] * len(texts)
        self.first_token_s = self.total_s = 0.0
        self.ended = False

    def pieces(self) -> Generator[str, None, None]:
        """Generate all tokens; yield the new pieces of all texts as they come."""
        begin = time.perf_counter()
        for number, token in self._tokens():
            self.total_s = time.perf_counter() - begin
            self.first_token_s = self.first_token_s or self.total_s
            if self.detokenizers and token not in self.rules.end_ids:
                yield from self._write(number, self.detokenizers[number].push(token))
                if self.detokenizers[number].stopped:
                    self.texts[number].finish_reason = "stop"
        for number, detokenizer in enumerate(self.detokenizers):
            yield from self._write(number, detokenizer.finish())
        self.ended = True

    def results(self) -> list[Result]:
        """Return the results; only after `pieces` has ended."""
        new_tokens = sum(len(text.new_ids) for text in self.texts)
        timings = Timings(self.first_token_s, self.total_s, new_tokens)
        return [
            Result(
                text=written if self.detokenizers else None,
                token_ids=text.new_ids,
                finish_reason=text.finish_reason or "length",
                timings=timings,
                seed=text.seed,
                first_near_tie=text.first_near_tie,
            )
            for text, written in zip(self.texts, self.written, strict=True)
        ]

    def _tokens(self) -> Iterator[tuple[int, int]]:
        if self.rules.max_new_tokens == 0:
            return iter(())
        sources = None if self.sources is None else self.sources()
        return generate_tokens(self.engine, self.texts, self.rules, self.pace, sources)

    def _write(self, number: int, piece: str) -> Iterator[str]:
        if piece:
            self.written[number] += piece
            yield piece


class Stream(Iterator[str]):
    """An iterator over pieces of text; once they have ended, it has a result."""

    def __init__(self, run: Run) -> None:
        self._run, self._pieces = run, run.pieces()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the generation and free its memory; there will be no result."""
        self._pieces.close()

    @property
    def result(self) -> Result:
        """The result; available once the pieces have ended."""
        if not self._run.ended:
            raise InvalidInputError("the stream has no result before its last piece")
        return self._run.results()[0]
