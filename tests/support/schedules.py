"""Random schedules of texts on the rows of one state: they arrive, fork, and end at any time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from edgegpt.runtime.engines.base import State
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.rows import Rows, Text

__all__ = ["Life", "Schedule", "compare_up_to_a_near_tie", "play", "play_alone", "schedules"]


@dataclass(eq=False)
class Life:
    """A text, the ids that it began with, and the logits [V] from which each token was chosen."""

    text: Text
    begin: list[int]
    logits: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """What happens before each step: prompts that arrive, and which live texts fork or end.

    A number stands for the live text with this index, modulo the number of live texts.
    """

    arrivals: Sequence[Sequence[Sequence[int]]]
    forks: Sequence[Sequence[int]]
    ends: Sequence[Sequence[int]]


@st.composite
def schedules(draw, vocabulary: int, longest: int = 12, steps: int = 16) -> Schedule:
    """Draw schedules of up to `steps` steps, with prompts of up to `longest` ids."""
    prompt = st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=longest)
    count = draw(st.integers(2, steps))

    def some(of, most: int) -> list:
        return [draw(st.lists(of, max_size=most)) for _ in range(count)]

    number = st.integers(0, 100)
    arrivals = some(prompt, 2)
    arrivals[0] = arrivals[0] or [[1]]
    return Schedule(arrivals, some(number, 1), some(number, 2))


def play(state: State, schedule: Schedule, rules: Rules) -> list[Life]:
    """Play a schedule on one state; return the lives of all its texts."""
    rows, lives = Rows(state), {}

    def written(texts: Sequence[Text], logits: np.ndarray) -> None:
        for text, own in zip(list(texts), logits, strict=True):
            lives[id(text)].logits.append(np.array(own))
            rules.write(text, own)

    def born(ids: Sequence[int]) -> Text:
        text = Text(list(ids), seed=7, series=len(lives))
        lives[id(text)] = Life(text, list(ids))
        return text

    for prompts, forks, ends in zip(schedule.arrivals, schedule.forks, schedule.ends, strict=True):
        for number in ends:
            if rows.texts:
                rows.texts[number % len(rows.texts)].finish_reason = "stop"
        rows.release([text for text in rows.texts if text.finish_reason is not None])
        for number in forks:
            if 0 < len(rows.texts) < state.rows:
                parent = rows.texts[number % len(rows.texts)]
                fork = rows.fork(parent, series=len(lives))
                lives[id(fork)] = Life(fork, list(fork.ids))
        if rows.texts:
            written(rows.texts, rows.advance())
        arriving = [born(ids) for ids in prompts[: state.rows - len(rows.texts)]]
        if arriving:
            written(arriving, rows.admit(arriving))
    return list(lives.values())


def play_alone(state: State, life: Life, rules: Rules) -> Life:
    """Generate the same text alone, with as many tokens."""
    rows, count = Rows(state), len(life.logits)
    text = Text(list(life.begin), seed=life.text.seed, series=life.text.series)
    text.prompt_length = life.text.prompt_length
    alone = Life(text, list(life.begin))
    logits = rows.admit([text])
    while True:
        alone.logits.append(np.array(logits[0]))
        rules.write(text, logits[0])
        if len(alone.logits) == count:
            return alone
        logits = rows.advance()


def compare_up_to_a_near_tie(life: Life, alone: Life, tolerance: float) -> int:
    """Check that logits agree, and tokens up to a near tie; return how many tokens agree."""
    for step, (found, expected) in enumerate(zip(life.logits, alone.logits, strict=True)):
        scale = np.abs(expected).max()
        assert np.abs(found - expected).max() <= tolerance * scale
        place = len(life.begin) + step
        if life.text.ids[place] != alone.text.ids[place]:
            assert alone.text.first_near_tie is not None
            assert alone.text.first_near_tie <= step
            return step
    return len(life.logits)
