"""`LanguageModel.stream`: its pieces are the text of `generate`, and its result is the same."""

import threading
from dataclasses import replace

import numpy as np
import pytest

import edgegpt
from edgegpt.runtime.engines.ort.cpu import OrtState
from edgegpt.runtime.errors import EngineError, InvalidInputError, NumericalError
from edgegpt.runtime.generation.run import Stream

PROMPT = "The wind"
WARM = {"temperature": 1.0, "seed": 5, "max_new_tokens": 60}


@pytest.fixture(scope="module")
def model(small_bundle):
    with edgegpt.load(small_bundle, threads=1) as opened:  # more only wait for each other here
        yield opened


@pytest.fixture
def run_steps(monkeypatch) -> list[int]:
    """A list that grows with each step of an engine."""
    steps: list[int] = []
    run, decode = OrtState._run, OrtState._decode

    def counting(state, ids, *rest):
        steps.append(ids.shape[1])
        run(state, ids, *rest)

    def counting_one(state, *rest):
        steps.append(1)
        decode(state, *rest)

    monkeypatch.setattr(OrtState, "_run", counting)
    monkeypatch.setattr(OrtState, "_decode", counting_one)
    return steps


def some_stop(model) -> str:
    """Return three characters from the middle of the text that the settings WARM give."""
    return model.generate(PROMPT, **WARM).text[30:33]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        WARM,
        WARM | {"overflow": "stop"},
        WARM | {"max_new_tokens": 0},
        WARM | {"top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2},
    ],
)
def test_joined_pieces_and_result_are_those_of_generate(model, settings):
    whole = model.generate(PROMPT, **{"seed": 1} | settings)
    stream = model.stream(PROMPT, **{"seed": 1} | settings)
    assert "".join(stream) == whole.text
    assert replace(stream.result, timings=whole.timings) == whole
    assert stream.result.timings.new_tokens == whole.timings.new_tokens


def test_a_stop_string_ends_the_stream_and_no_part_of_it_comes_out(model):
    stop = some_stop(model)
    stream = model.stream(PROMPT, stop=stop, **WARM)
    text = "".join(stream)
    assert text == model.generate(PROMPT, **WARM).text.split(stop)[0]
    assert stream.result.text == text
    assert stream.result.finish_reason == "stop"
    assert stream.result.token_ids[-len(stop) :] == model.encode_prompt(stop)


def test_text_held_back_for_a_stop_string_comes_out_at_the_end(model):
    whole = model.generate(PROMPT, **WARM).text
    pieces = list(model.stream(PROMPT, stop=whole[-4:] + "\0", **WARM))
    assert "".join(pieces) == whole
    assert pieces[-1] == whole[-4:]


def test_pieces_come_one_token_at_a_time_and_are_never_empty(model):
    pieces = list(model.stream(PROMPT, **WARM))
    assert len(pieces) == 60
    assert all(pieces)


def test_the_model_runs_only_as_pieces_are_asked_for(model, run_steps):
    stream = model.stream(PROMPT, **WARM)
    assert isinstance(stream, Stream)
    assert run_steps == []
    next(stream)
    assert run_steps == [len(PROMPT)]
    next(stream)
    assert run_steps == [len(PROMPT), 1]


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        ("", {}),
        ("Annéa", {}),
        ([1, 99], {}),
        ("a" * 33, {"overflow": "stop"}),
        (PROMPT, {"max_new_tokens": -1}),
        (PROMPT, {"temperature": -1.0}),
        (PROMPT, {"top_k": 2.5}),
        (PROMPT, {"seed": -1}),
        (PROMPT, {"stop": ""}),
        (PROMPT, {"stop": [5]}),
        (PROMPT, {"overflow": "wrap"}),
    ],
)
def test_arguments_are_checked_at_the_call(model, prompt, settings):
    with pytest.raises(InvalidInputError):
        model.stream(prompt, **settings)


@pytest.mark.parametrize("batch", [[PROMPT, "N"], [[1], [2]], np.array([[1, 2]])])
def test_a_batch_cannot_be_streamed(model, batch):
    with pytest.raises(InvalidInputError, match="one prompt"):
        model.stream(batch)


def test_a_prompt_of_ids_can_be_streamed(model):
    ids = model.encode_prompt(PROMPT)
    assert "".join(model.stream(ids, **WARM)) == model.generate(PROMPT, **WARM).text


def test_there_is_no_result_before_the_last_piece(model):
    stream = model.stream(PROMPT, max_new_tokens=2)
    for _ in range(3):
        with pytest.raises(InvalidInputError, match="before its last piece"):
            _ = stream.result
        next(stream, None)
    assert len(stream.result.token_ids) == 2
    assert list(stream) == []


def test_a_second_thread_in_one_stream_is_told_so(model, monkeypatch):
    stream, inside, go_on = model.stream(PROMPT, **WARM), threading.Event(), threading.Event()

    def wait(self: OrtState, *arguments: object) -> object:
        inside.set()
        assert go_on.wait(60)
        return step(self, *arguments)

    step = OrtState._run
    monkeypatch.setattr(OrtState, "_run", wait)
    pieces: list[str] = []
    other = threading.Thread(target=lambda: pieces.append(next(stream)))
    other.start()
    assert inside.wait(60)
    for call in (lambda: next(stream), stream.close):
        with pytest.raises(InvalidInputError, match="a stream is for one thread at a time"):
            call()
    go_on.set()
    other.join()
    assert [*pieces, *stream] == list(model.stream(PROMPT, **WARM))


def test_two_streams_of_one_model_do_not_disturb_each_other(model):
    prompts = [PROMPT, "No answer"]
    alone = [model.generate(prompt, **WARM).text for prompt in prompts]
    streams = [model.stream(prompt, **WARM) for prompt in prompts]
    rows = list(zip(*streams, strict=True))
    assert ["".join(column) for column in zip(*rows, strict=True)] == alone


def test_a_stream_that_failed_has_no_result(model, monkeypatch):
    stream = model.stream(PROMPT, **WARM)
    next(stream)
    logits = OrtState.logits
    monkeypatch.setattr(OrtState, "logits", lambda state: np.full_like(logits(state), np.nan))
    with pytest.raises(NumericalError):
        next(stream)
    assert list(stream) == []
    with pytest.raises(InvalidInputError):
        _ = stream.result


def test_a_stream_that_begins_after_the_model_was_closed_is_an_engine_error(small_bundle):
    opened = edgegpt.load(small_bundle)
    stream = opened.stream(PROMPT)
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        next(stream)
