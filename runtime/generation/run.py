"""One call of `generate` or `stream`: running it, and what comes out."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from ..engines.base import Engine
from ..errors import InvalidInputError
from ..text.stops import TextStream
from ..text.tokenizer import Tokenizer
from .loop import FinishReason, Overflow, Text, generate_tokens
from .sampling import Sampling
from .speculation import Pace

__all__ = ["Result", "Run", "Settings", "Stream", "Timings"]


@dataclass(frozen=True)
class Settings:
    """What holds for all texts of a call; see `edgegpt.runtime.generation.loop.generate_tokens`."""

    max_new_tokens: int
    sampling: Sampling
    stop: list[str]
    overflow: Overflow
    context: int
    tolerance: float
    speculate: int
    pace: Pace


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of one call; rows of a batch share them.

    Attributes:
        first_token_s: from the call to the first token, the prompt included.
        total_s: from the call to the last token.
        new_tokens: how many tokens all rows of the call got together.
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
    """What was generated for one prompt, the prompt itself not included.

    Attributes:
        text: the new text up to a stop string; None if the bundle has no tokenizer.
        token_ids: all new ids, those of a stop string included.
        finish_reason: "length" (max_new_tokens), "stop" (a stop string), "context" (the text
            outgrew the context and overflow is "stop").
        timings: of the whole call.
        seed: the seed used, so that the text can be had again.
        first_near_tie: the first new token, counted from 0, whose lead over the runner-up was so
            small that another engine may choose differently from there on; None if all were clear.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int
    first_near_tie: int | None


class Run:
    """The texts of one call, the text streams that watch them, and the clock."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer | None, texts: list[Text], settings: Settings
    ) -> None:
        self.engine, self.texts, self.settings = engine, texts, settings
        self.streams: list[TextStream] = []
        if tokenizer is not None:
            self.streams = [TextStream(tokenizer, settings.stop) for _ in texts]
        self.written = [""] * len(texts)
        self.first_token_s = self.total_s = 0.0
        self.ended = False

    def pieces(self) -> Generator[str, None, None]:
        """Generate everything; yield the pieces of text of all rows as they come."""
        begin = time.perf_counter()
        for row, token in self._tokens():
            self.total_s = time.perf_counter() - begin
            self.first_token_s = self.first_token_s or self.total_s
            if self.streams:
                stream = self.streams[row]
                yield from self._write(row, stream.push(token))
                if stream.stopped:
                    self.texts[row].finish_reason = "stop"
        for row, stream in enumerate(self.streams):
            yield from self._write(row, stream.finish())
        self.ended = True

    def results(self) -> list[Result]:
        """Return the results; only after `pieces` has ended."""
        new_tokens = sum(len(text.new_ids) for text in self.texts)
        timings = Timings(self.first_token_s, self.total_s, new_tokens)
        return [
            Result(
                text=written if self.streams else None,
                token_ids=text.new_ids,
                finish_reason=text.finish_reason or "length",
                timings=timings,
                seed=text.seed,
                first_near_tie=text.first_near_tie,
            )
            for text, written in zip(self.texts, self.written, strict=True)
        ]

    def _tokens(self) -> Iterator[tuple[int, int]]:
        settings = self.settings
        if settings.max_new_tokens == 0:
            return iter(())
        return generate_tokens(
            self.engine,
            self.texts,
            context=settings.context,
            max_new_tokens=settings.max_new_tokens,
            sampling=settings.sampling,
            overflow=settings.overflow,
            tolerance=settings.tolerance,
            speculate=settings.speculate,
            pace=settings.pace,
        )

    def _write(self, row: int, piece: str) -> Iterator[str]:
        if piece:
            self.written[row] += piece
            yield piece


class Stream(Iterator[str]):
    """Pieces of text, and when they have ended, the result."""

    def __init__(self, run: Run) -> None:
        self._run, self._pieces = run, run.pieces()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop here, and free what the generation holds; there will be no result."""
        self._pieces.close()

    @property
    def result(self) -> Result:
        """The result; only once the pieces have ended."""
        if not self._run.ended:
            raise InvalidInputError("the stream has no result before its last piece")
        return self._run.results()[0]
