"""A deadline and a cancel end a call between two steps, with what there is so far."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgegpt
from edgegpt import LanguageModel
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.engines.ort import cpu
from edgegpt.runtime.generation import limits, prefill

PROMPT = "The wind"


class After:
    """A wish to stop that is there from the n-th question on."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, threads=1) as opened:
        yield opened


@pytest.mark.parametrize("speculate", [0, 4])
def test_a_cancelled_text_keeps_its_first_tokens(model: LanguageModel, speculate: int) -> None:
    whole = model.generate(PROMPT, max_new_tokens=40, speculate=speculate)
    # It is asked before the prompt is fed, and before each step.
    part = model.generate(PROMPT, max_new_tokens=40, speculate=speculate, cancel=After(5))
    assert part.finish_reason == "cancelled"
    assert part.token_ids == whole.token_ids[: len(part.token_ids)]
    assert part.text == whole.text[: len(part.text)]
    assert len(part.token_ids) == 5 if speculate == 0 else 5 <= len(part.token_ids) < 40


def test_texts_of_a_batch_that_ended_before_keep_their_reason(model: LanguageModel) -> None:
    whole, other = model.generate([PROMPT, "rain"], max_new_tokens=9)
    end = next(token for token in whole.token_ids[:8] if token not in other.token_ids)
    first, second = model.generate(
        [PROMPT, "rain"], max_new_tokens=40, end_ids=end, cancel=After(9)
    )
    assert (first.finish_reason, second.finish_reason) == ("eos", "cancelled")
    assert len(second.token_ids) == 9


def test_no_time_at_all_gives_no_token(model: LanguageModel) -> None:
    results = [
        model.generate(PROMPT, max_time=0),
        *model.generate([PROMPT, "rain"], max_time=0.0),
        model.generate(PROMPT, max_time=0, num_beams=3),
        model.generate(PROMPT, max_time=0, speculate=3),
    ]
    for result in results:
        assert (result.token_ids, result.text, result.finish_reason) == ([], "", "time")


def test_a_deadline_ends_a_text_between_two_steps(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(limits.time, "monotonic", lambda: float(next(ticks)))
    result = model.generate(PROMPT, max_new_tokens=40, max_time=4.5)  # asked at 1, 2, 3, 4, 5
    assert (len(result.token_ids), result.finish_reason) == (4, "time")


def test_a_long_prompt_is_left_between_two_pieces(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 2)
    monkeypatch.setattr(cpu, "PROMPT_PIECE", 2)
    wish = After(2)
    result = model.generate(PROMPT, max_new_tokens=5, cancel=wish)
    assert (result.token_ids, result.finish_reason) == ([], "cancelled")
    assert wish.left == -1


def test_a_cancelled_search_ends_with_its_best_texts(model: LanguageModel) -> None:
    result = model.generate(
        PROMPT, max_new_tokens=20, num_beams=3, num_return_sequences=3, cancel=After(5)
    )
    assert len(result.hypotheses) == 3
    for one in result.hypotheses:
        assert (len(one.token_ids), one.finish_reason) == (6, "cancelled")  # a last step ends it
        own = sum(model.score(PROMPT, one.token_ids)) / len(one.token_ids)
        assert one.score == pytest.approx(own, abs=1e-4)


def test_another_thread_ends_a_stream(model: LanguageModel) -> None:
    wish = threading.Event()
    stream = model.stream(PROMPT, max_new_tokens=10**6, overflow="slide", cancel=wish)
    pieces = [next(stream)]
    setter = threading.Thread(target=wish.set)
    setter.start()
    setter.join()
    pieces += stream
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text == "".join(pieces)
    assert len(stream.result.token_ids) < 10


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_time": -1}, "max_time is -1; it must be a number of seconds, 0 or more"),
        ({"max_time": float("nan")}, "max_time is nan"),
        ({"max_time": float("inf")}, "max_time is inf"),
        ({"max_time": True}, "max_time is True"),
        ({"max_time": "3"}, "max_time is '3'"),
        ({"cancel": True}, "cancel is True; it must be a threading.Event"),
    ],
)
def test_impossible_limits_are_refused(
    model: LanguageModel, settings: dict, complaint: str
) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(InvalidInputError, match=complaint):
            call(PROMPT, **settings)
