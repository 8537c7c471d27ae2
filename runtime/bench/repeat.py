"""One timed generation for a whole batch, from the prompts' text to the last token's text."""

import time
from collections.abc import Iterator

import numpy as np

from ..generate import Text, generate_tokens, stream_of
from ..language_model import LanguageModel
from ..sampling import Sampling
from ..tokenizer import TextStream
from .prompts import Row
from .result import Repeat
from .timed import TimedEngine

__all__ = ["Runner"]


class Runner:
    """An open model with a clock around its engine, and how to decode with it."""

    def __init__(self, model: LanguageModel, sampling: Sampling, steps: int) -> None:
        """Decode `steps` tokens after the first one in each run."""
        self.model, self.sampling, self.steps = model, sampling, steps
        self.engine = TimedEngine(model.engine)

    def run(self, rows: list[Row], depth: int) -> Repeat:
        """Generate once for prompts of `depth` tokens."""
        clock, engine = time.perf_counter, self.engine
        marks = [(clock(), engine.seconds, 0.0)]  # time, engine time, time for text
        texts = [self._text(row, depth, seed) for seed, row in enumerate(rows)]
        tokenize_s = clock() - marks[0][0]
        tokenizer = self.model.tokenizer
        streams = [TextStream(tokenizer, []) for _ in rows] if tokenizer is not None else []
        text_s = 0.0
        for row, token in self._tokens(texts):
            if streams:
                begin = clock()
                streams[row].push(token)
                text_s += clock() - begin
            if row == len(rows) - 1:
                marks.append((clock(), engine.seconds, text_s))
        passed = np.diff(np.array(marks), axis=0)  # (steps + 1, 3)
        first, steps = passed[0], passed[1:].T.tolist()
        return Repeat(float(first[0]), tokenize_s, float(first[1]), *steps)

    def _text(self, row: Row, depth: int, seed: int) -> Text:
        """Turn a prompt into what `generate_tokens` takes; tokenizing is part of the time."""
        ids = row.ids
        if row.text is not None and self.model.tokenizer is not None:
            ids = self.model.tokenizer.encode(row.text)[:depth]
        return Text(list(ids), seed=seed, stream=stream_of(ids))

    def _tokens(self, texts: list[Text]) -> Iterator[tuple[int, int]]:
        return generate_tokens(
            self.engine,
            texts,
            context=self.model.context,
            max_new_tokens=self.steps + 1,  # the first one comes from the prefill
            sampling=self.sampling,
            overflow="slide",
            tolerance=self.model.tolerance,
        )
