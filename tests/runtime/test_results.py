"""What a call returns: short descriptions, own times, and what there is of a text that was left."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgegpt
from edgegpt import LanguageModel, Stream
from edgegpt.errors import InvalidInputError, NumericalError

PROMPT = "The wind"


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle) as opened:
        yield opened


def test_descriptions_are_short(model: LanguageModel, small_bundle: Path) -> None:
    assert model.bundle.manifest.id[:12] in repr(model.bundle)
    assert str(small_bundle) in repr(model)
    assert "onnxruntime" in repr(model)
    assert len(repr(model)) < 300
    with edgegpt.load(small_bundle) as other:
        pass
    assert "closed" in repr(other)


def test_each_text_of_a_batch_has_its_own_times(model: LanguageModel) -> None:
    end = model.generate(PROMPT, max_new_tokens=3, temperature=0).token_ids[-1]
    results = model.generate(
        [PROMPT, "rain"], max_new_tokens=20, temperature=0, end_ids=end, seed=1
    )
    for result in results:
        assert result.timings.new_tokens == len(result.token_ids)
        assert 0 < result.timings.first_token_s <= result.timings.total_s
        assert result.timings.tokens_per_second > 0
    lengths = [len(result.token_ids) for result in results]
    totals = [result.timings.total_s for result in results]
    assert lengths[0] < lengths[1]
    assert totals[0] < totals[1]


def test_a_result_becomes_json(model: LanguageModel) -> None:
    result = model.generate(PROMPT, max_new_tokens=3, num_beams=2, num_return_sequences=2)
    found = json.loads(json.dumps(result.to_dict()))
    assert found["text"] == result.text
    assert found["timings"]["new_tokens"] == len(result.token_ids)
    assert found["hypotheses"][1]["score"] == result.hypotheses[1].score


def test_a_stream_that_is_closed_has_what_there_is_so_far(model: LanguageModel) -> None:
    stream = model.stream(PROMPT, max_new_tokens=20, temperature=0)
    with pytest.raises(InvalidInputError, match="before its last piece"):
        _ = stream.result
    pieces = [next(stream), next(stream)]
    stream.close()
    assert stream.result.text == "".join(pieces)
    assert stream.result.finish_reason == "closed"
    assert 2 <= len(stream.result.token_ids) < 20
    assert list(stream) == []


def test_a_stream_that_has_ended_keeps_its_reason_when_it_is_closed(model: LanguageModel) -> None:
    stream = model.stream(PROMPT, max_new_tokens=4, temperature=0)
    text = "".join(stream)
    stream.close()
    assert (stream.result.text, stream.result.finish_reason) == (text, "length")


def test_a_stream_can_be_awaited_while_other_tasks_go_on(model: LanguageModel) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def listen() -> str:
        other = asyncio.create_task(tick())
        stream = model.stream(PROMPT, max_new_tokens=20, temperature=0)
        text = "".join([piece async for piece in stream])
        other.cancel()
        assert stream.result.text == text
        return text

    text = asyncio.run(listen())
    assert text == model.generate(PROMPT, max_new_tokens=20, temperature=0).text
    assert ticks > 20


class _Interrupted:
    """A lock; Ctrl-C strikes just after it was taken for the first time."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.release = lock, lock.release
        self.strikes = [KeyboardInterrupt()]

    def acquire(self, blocking: bool) -> bool:
        taken = self.lock.acquire(blocking=blocking)
        if self.strikes:
            raise self.strikes.pop()
        return taken


def test_a_stream_can_be_closed_whenever_ctrl_c_has_struck(model: LanguageModel) -> None:
    stream = model.stream(PROMPT, max_new_tokens=20, temperature=0)
    next(stream)
    stream._lock = _Interrupted(stream._lock)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    stream.close()
    assert stream.result.finish_reason == "closed"


class _Slow:
    """Pieces that take their time; `ended` tells that they were closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.ended = error, threading.Event()

    def pieces(self) -> Iterator[str]:
        try:
            while True:
                time.sleep(0.2)
                if self.error is not None:
                    raise self.error
                yield "x"
        finally:
            self.ended.set()


async def _cancelled(stream: Stream, times: int) -> None:
    """Wait for pieces in a task that is cancelled during a step: once, or as AnyIO does it."""

    async def listen() -> None:
        try:
            async for _ in stream:
                pass
        finally:
            stream.close()  # as careful programs do

    task = asyncio.create_task(listen())
    await asyncio.sleep(0.1)
    while not task.done() and times:
        task.cancel()
        times -= 1
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("times", [1, 2, 100])
@pytest.mark.parametrize("error", [None, NumericalError("NaN")])
def test_a_task_that_is_cancelled_during_a_step_closes_its_stream(
    model: LanguageModel, times: int, error: Exception | None
) -> None:
    slow = _Slow(error)
    unnoticed: list[object] = []

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, found: unnoticed.append(found))
        stream = model.stream(PROMPT, max_new_tokens=500, temperature=0)
        stream._pieces = slow.pieces()
        await _cancelled(stream, times)
        assert times > 1 or not stream._left
        while stream._left:
            await asyncio.sleep(0.01)
        assert stream.result.finish_reason == "closed"
        stream.close()

    asyncio.run(leave())
    assert slow.ended.is_set()
    assert unnoticed == []
