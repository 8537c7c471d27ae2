"""One timed generation for a whole batch, from the prompts' text to the last token's text."""

import time
from itertools import pairwise

import numpy as np

from ..cuda.event_clock import EventClock
from ..generation.begin import Begin, Beginnings
from ..generation.loop import Rules, generate_tokens
from ..generation.rows import Rows, Text
from ..generation.sampling import Sampling
from ..language_model import LanguageModel
from ..text.stops import Detokenizer
from .energy import Meter
from .prompts import Row
from .result import Repeat
from .timed import TimedEngine

__all__ = ["Runner"]

# A board's counter moves about ten times a second or more, so one tick is at most a tenth of this.
ENERGY_S = 1.0


class Runner:
    """Runs timed generations with an open model, whose engine has a clock around it."""

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        steps: int,
        device_clock: EventClock | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Decode `steps` tokens after the first one in each run.

        `device_clock` is the clock that the engine was opened with, if any.
        """
        self.model, self.sampling, self.steps = model, sampling, steps
        self.engine = TimedEngine(model.engine)
        self.begin = Begin(model.bundle)
        self.device_clock, self.meter = device_clock, meter

    def run(self, rows: list[Row], depth: int, *, with_energy: bool = True) -> Repeat:
        """Generate once for prompts of `depth` tokens; then repeat the steps for the energy."""
        clock, engine = time.perf_counter, self.engine
        marks = [(clock(), engine.seconds, 0.0)]  # time, engine time, time for text
        spans: list[int] = []  # number of spans that the device has timed, at each token
        given = [self._ids(row, depth) for row in rows]
        read = self.begin.read(self.engine, given)
        texts = read.texts(range(len(rows)))
        tokenize_s = clock() - marks[0][0]
        tokenizer = self.model.tokenizer
        watching = [Detokenizer(tokenizer, []) for _ in rows] if tokenizer is not None else []
        seconds = 0.0  # for text
        sources = None if read.sources is None else read.sources()
        for row, token in generate_tokens(self.engine, texts, self._rules(), None, sources):
            if watching:
                begin = clock()
                watching[row].push(token)
                seconds += clock() - begin
            if row == len(rows) - 1:
                marks.append((clock(), engine.seconds, seconds))
                spans.append(self.device_clock.used if self.device_clock else 0)
        passed = np.diff(np.array(marks), axis=0)  # (steps + 1, 3)
        step_s, engine_s, text_s = passed[1:].T.tolist()
        device_s = _by_step(self.device_clock, spans)
        return Repeat(
            float(passed[0, 0]),
            tokenize_s,
            float(passed[0, 1]),
            step_s,
            engine_s,
            text_s,
            device_s=device_s,
            joules=self._joules(texts, read) if with_energy else {},
        )

    def _joules(self, texts: list[Text], read: Beginnings) -> dict[str, float]:
        """Return the joules of a token by rail, from repeating the same steps without a pause."""
        if self.meter is None:
            return {}
        if self.device_clock is not None:
            self.device_clock.paused = True
        try:
            return self._decode_on_and_on(texts, read, self.meter)
        finally:
            if self.device_clock is not None:
                self.device_clock.paused = False

    def _decode_on_and_on(
        self, texts: list[Text], read: Beginnings, meter: Meter
    ) -> dict[str, float]:
        model, tokens, rules, depth = self.model, 0, self._rules(), len(read.starts[0])
        sources = None if read.sources is None else read.sources()
        with model.engine.new_state(len(texts), model.context, sources) as state:
            for text in texts:
                del text.ids[depth:]
            rows = Rows(state)
            logits = first = rows.admit(texts)
            begin = time.perf_counter()
            meter.begin()
            while time.perf_counter() - begin < ENERGY_S:
                for _ in range(self.steps):
                    for text, own in zip(texts, logits, strict=True):
                        rules.write(text, own)
                    logits = rows.advance()
                tokens += self.steps * len(texts)
                for text in texts:
                    del text.ids[depth:]
                logits = first
            taken = meter.end()
        return {name: joules / tokens for name, joules in taken.items()}

    def _ids(self, row: Row, depth: int) -> list[int]:
        """Turn a prompt into ids; tokenizing is part of the measured time."""
        tokenizer = (self.begin.sources or self.begin.prompts).tokenizer
        if row.text is None or tokenizer is None:
            return row.ids
        return tokenizer.encode(row.text)[:depth]

    def _rules(self) -> Rules:
        model = self.model
        new_tokens = self.steps + 1  # the first one comes from the prefill
        return Rules(model.context, new_tokens, self.sampling, "slide", model.tolerance)


def _by_step(clock: EventClock | None, spans: list[int]) -> list[float]:
    """Return the device's seconds of each decoding step, the sum of its spans (mostly one)."""
    if clock is None:
        return []
    seconds = clock.take()
    return [sum(seconds[begin:end]) for begin, end in pairwise(spans)]
