"""Every backend on a GPU: proofs, equal texts, constant memory, threads, cancellation, no room."""

import threading
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedules import compare_up_to_a_near_tie, play, play_alone, schedules

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.cuda.memory import Cuda, find_device
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.writing import Result
from edgegpt.runtime.proof.verify import verify

PROMPT = "ROMEO:"
TOKENS = 10_000
NOISE = 16 << 20  # of other processes, and of pages; the cache of a text here has 4.7 MB
CHUNK = 64 << 20
PRECISIONS = ["float32", "float16", "bfloat16", "rope", "int8", "int4"]


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("name", PRECISIONS)
def test_the_proof_passes(bundles, backend, name, cuda_graph):
    receipt = verify(Bundle.open(bundles(name)), EngineOptions(backend, cuda_graph=cuda_graph))
    wrong = [
        (check.name, check.difference.relative) for check in receipt.checks if not check.passed
    ]
    assert receipt.passed, wrong


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.8, "top_k": 20, "seed": 1},
        {"temperature": 0.8, "seed": 1},
        {"temperature": 0, "speculate": 7},
    ],
)
@pytest.mark.parametrize("name", ["float32", "rope"])
def test_the_text_is_the_cpus_up_to_the_first_near_tie(load, name, settings):
    prompt = PROMPT if name == "float32" else [5, 6, 7]
    found, expected = (
        model.generate(prompt, max_new_tokens=150, **settings)
        for model in (load(name), load(name, "cpu"))
    )
    assert up_to_the_first_tie(found, expected, 150) > 20


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["float32", "float16", "rope", "int4"])
def test_cuda_graph_and_plain_decode_give_equal_tokens(load, name, rows):
    prompts = [[5, 6, 7], [8], [9, 10]][:rows]
    replayed, plain = (
        load(name, cuda_graph=cuda_graph).generate(prompts, max_new_tokens=200)
        for cuda_graph in (True, False)
    )
    for one, other in zip(replayed, plain, strict=True):
        assert up_to_the_first_tie(one, other, 200) > 0


def up_to_the_first_tie(one: Result, other: Result, count: int) -> int:
    """Assert that two texts are equal up to the first near tie; return its step, else `count`."""
    ties = [result.first_near_tie for result in (one, other)]
    end = min((tie for tie in ties if tie is not None), default=count)
    assert one.token_ids[:end] == other.token_ids[:end]
    return end


@pytest.mark.parametrize("name", ["float32", "rope"])
@given(schedule=schedules(30, longest=20, steps=12), capacity=st.integers(1, 4))
@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_texts_that_join_fork_and_leave_are_what_they_are_alone(load, name, schedule, capacity):
    model = load(name)
    rules = Rules(model.context, 10**6, Sampling(), "slide", model.tolerance)
    with model.engine.new_state(capacity, model.context) as state:
        lives = play(state, schedule, rules)
    with model.engine.new_state(1, model.context) as single:
        for life in lives:
            if life.logits:
                compare_up_to_a_near_tie(life, play_alone(single, life, rules), model.tolerance)


def test_memory_stays_constant_over_10_000_tokens(load, used_bytes):
    model = load("float32")
    settings = {"max_new_tokens": 500, "temperature": 1.0}
    for seed in range(2):  # the second run of a shape still allocates
        model.generate([PROMPT, "A"], seed=seed, **settings)
    before = used_bytes()
    for seed in range(TOKENS // 1000):
        model.generate([PROMPT, "A"], seed=seed, **settings)
    assert used_bytes() - before < NOISE


def test_prompts_that_grow_take_no_more_than_the_longest(load, used_bytes):
    model = load("float32")
    longest = model.context - 10
    for _ in range(2):
        model.generate([[1] * longest] * 4, max_new_tokens=2)
    before = used_bytes()
    for length in range(1, longest, 7):
        for _ in range(2):
            model.generate([[1] * length] * 4, max_new_tokens=2)
    assert used_bytes() - before < 4 * NOISE  # an arena grows by doubling, once


def test_two_models_at_once_write_what_each_writes_alone(load):
    models = [load("float32"), load("rope")]
    prompts = [PROMPT, [5, 6, 7]]
    alone = [
        model.generate(prompt, max_new_tokens=150).token_ids
        for model, prompt in zip(models, prompts, strict=True)
    ]
    found: list[list[int]] = [[], []]

    def write(index: int) -> None:
        for _ in range(3):
            found[index] += models[index].generate(prompts[index], max_new_tokens=150).token_ids

    run_all([threading.Thread(target=write, args=(index,)) for index in range(2)])
    assert found == [ids * 3 for ids in alone]


def test_one_model_serves_several_threads(load):
    model = load("float32")
    alone = model.generate(PROMPT, max_new_tokens=100).token_ids
    found: list[list[int]] = []

    def write() -> None:
        found.append(model.generate(PROMPT, max_new_tokens=100).token_ids)

    run_all([threading.Thread(target=write) for _ in range(4)])
    assert found == [alone] * 4


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_that_end_leave_nothing(load, used_bytes):
    model, before = load("float32"), 0

    def write() -> None:
        model.generate(PROMPT, max_new_tokens=20)

    for number in range(25):
        if number == 5:
            before = used_bytes()
        run_all([threading.Thread(target=write)])
    assert used_bytes() - before < NOISE


def test_a_stream_closed_midway_gives_its_memory_back(load, used_bytes):
    model = load("float32")
    expected = [model.generate(PROMPT, max_new_tokens=50).token_ids for _ in range(2)]
    before = used_bytes()
    for _ in range(20):
        stream = model.stream(PROMPT, max_new_tokens=200)
        next(stream)
        stream.close()
    assert used_bytes() - before < NOISE
    assert model.generate(PROMPT, max_new_tokens=50).token_ids == expected[0] == expected[1]


def test_a_full_device_is_an_error_and_the_process_goes_on(load):
    model, cuda = load("float32"), Cuda()
    expected = model.generate(PROMPT, max_new_tokens=20).token_ids
    device = find_device(cuda)
    if device is None or device.shares_memory:
        pytest.skip("filling memory that the host shares would end other programs")
    with ExitStack() as stack:
        fill(cuda, stack)
        with pytest.raises(EngineError):
            _ = [model.engine.new_state(4, model.context) for _ in range(1000)]
    assert model.generate(PROMPT, max_new_tokens=20).token_ids == expected
    assert np.isfinite(model.forward([[1, 2, 3]])).all()


def fill(cuda: Cuda, stack: ExitStack) -> None:
    """Take all of the device's memory except less than one chunk."""
    try:
        while True:
            cuda.allocate(stack, CHUNK, "a test")
    except EngineError:
        return
