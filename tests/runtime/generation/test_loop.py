"""The generation loop on the null engine, whose network is a function of the visible ids.

The expected texts come from `written_alone`: one row, no cache, and a new window at each step.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.errors import NumericalError
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text, window_start
from edgegpt.runtime.generation.sampling import Sampling, choose

VOCABULARY = 7
GREEDY = Sampling()
WARM = Sampling(temperature=1.0, top_k=5)
PENALISED = Sampling(temperature=0.8, repetition_penalty=1.3)

prompt_ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=14)


def network(visible) -> np.ndarray:
    """Return logits that every visible id and every position changes; an empty slot is an error."""
    assert visible
    assert min(visible) >= 0
    mixed = np.random.SeedSequence([token + 1 for token in visible])
    return np.random.Generator(np.random.Philox(mixed)).normal(size=VOCABULARY).astype(np.float32)


def visible_start(length: int, context: int) -> int:
    """Slide as the docstring says: the last S // 2 tokens of a full window begin the next one."""
    start = 0
    while length - start > context:
        start += context - context // 2
    return start


def written_alone(prompt, *, count, context, sampling=GREEDY, seed=1, series=2) -> list[int]:
    ids = list(prompt)
    for step in range(count):
        logits = network(ids[visible_start(len(ids), context) :])
        ids.append(choose(logits, sampling, ids, seed=seed, series=series, step=step).token)
    return ids[len(prompt) :]


def texts_of(prompts) -> list[Text]:
    return [Text(list(ids), seed=1, series=2 + row) for row, ids in enumerate(prompts)]


def write(
    texts,
    *,
    count,
    context,
    sampling=GREEDY,
    overflow="slide",
    engine=None,
    on=None,
    tolerance=1e-5,
    end_ids=frozenset(),
):
    """Generate to the end; `on(row, token)` is called for each token."""
    rules = Rules(context, count, sampling, overflow, tolerance, end_ids=end_ids)
    tokens = generate_tokens(engine or NullEngine(network, VOCABULARY), texts, rules)
    for row, token in tokens:
        if on is not None:
            on(row, token)
    return [text.new_ids for text in texts]


@given(st.integers(1, 60), st.integers(1, 400))
def test_a_window_starts_where_sliding_token_by_token_would_put_it(context, length):
    start = window_start(length, context)
    stride = context - context // 2
    assert start == visible_start(length, context)
    assert start == (0 if length <= context else stride * math.ceil((length - context) / stride))


@given(st.integers(1, 200), st.integers(1, 100_000))
def test_a_window_is_never_empty_and_never_larger_than_the_context(context, length):
    visible = length - window_start(length, context)
    assert 1 <= visible <= context
    assert length <= context or visible > context // 2


@given(st.integers(1, 60), st.integers(1, 400))
def test_a_window_moves_only_when_it_is_full(context, length):
    before, after = window_start(length, context), window_start(length + 1, context)
    assert after == before or length - before == context


@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED], ids=["greedy", "warm", "penalised"])
@given(prompts=st.lists(prompt_ids, min_size=1, max_size=4), context=st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_a_batch_gives_each_prompt_what_it_gets_alone(sampling, prompts, context):
    found = write(texts_of(prompts), count=12, context=context, sampling=sampling)
    assert found == [
        written_alone(ids, count=12, context=context, sampling=sampling, series=2 + row)
        for row, ids in enumerate(prompts)
    ]


@given(st.lists(prompt_ids, min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 11))
@settings(deadline=None, max_examples=60)
def test_generating_in_two_calls_gives_what_one_call_gives(prompts, context, first_count):
    at_once = write(texts_of(prompts), count=12, context=context)
    first = texts_of(prompts)
    write(first, count=first_count, context=context)
    second = write(texts_of([text.ids for text in first]), count=12 - first_count, context=context)
    joined = [a.new_ids + b for a, b in zip(first, second, strict=True)]
    assert joined == at_once


@pytest.mark.parametrize(("context", "prompt_length"), [(1, 1), (4, 2), (5, 3), (6, 6), (4, 11)])
def test_every_step_shows_the_network_exactly_its_window(context, prompt_length):
    seen = []

    def recording(visible):
        seen.append(list(visible))
        return network(visible)

    text = Text([token % VOCABULARY for token in range(prompt_length)], seed=1, series=2)
    write([text], count=13, context=context, engine=NullEngine(recording, VOCABULARY))
    lengths = range(prompt_length, prompt_length + 13)
    assert seen == [text.ids[visible_start(n, context) : n] for n in lengths]


def measured_engine() -> tuple[NullEngine, list[int]]:
    """Return an engine, and a list that grows with the number of tokens per row of each step."""
    engine, sizes = NullEngine(network, VOCABULARY), []
    new_state = engine.new_state

    def measured_state(batch, context, sources=None):
        state = new_state(batch, context)
        run = state._run
        state._run = lambda ids, *rest: (sizes.append(ids.shape[1]), run(ids, *rest))
        return state

    engine.new_state = measured_state
    return engine, sizes


def test_only_a_sliding_window_is_fed_again():
    engine, sizes = measured_engine()
    write([Text([1, 2, 3], seed=1, series=2)], count=12, context=8, engine=engine)
    assert sizes == [3, 1, 1, 1, 1, 1, 5, 1, 1, 1, 5, 1]


@pytest.mark.parametrize("length", [6, 8])
def test_a_row_that_has_ended_is_not_fed_again(length):
    def stop_first_row(row, token):
        if row == 0:
            texts[0].finish_reason = "stop"

    engine, sizes = measured_engine()
    texts = texts_of([[1] * length, [2] * 7])
    write(texts, count=4, context=8, engine=engine, on=stop_first_row)
    assert sizes == [max(length, 7), 1, 5, 1]


@pytest.mark.parametrize(("prompt_length", "count"), [(1, 5), (3, 3), (5, 1)])
def test_with_overflow_stop_a_text_ends_when_it_outgrows_the_context(prompt_length, count):
    text = Text([3] * prompt_length, seed=1, series=2)
    write([text], count=100, context=5, overflow="stop")
    assert text.finish_reason == "context"
    assert text.new_ids == written_alone([3] * prompt_length, count=count, context=5)


def test_a_text_that_fills_the_context_and_its_length_at_once_ends_by_length():
    text = Text([3, 3], seed=1, series=2)
    write([text], count=4, context=5, overflow="stop")
    assert (text.finish_reason, len(text.new_ids)) == ("length", 4)


def test_with_overflow_stop_each_row_ends_by_itself():
    texts = texts_of([[1] * 5, [1], [2] * 3])
    found = write(texts, count=4, context=5, overflow="stop")
    assert [len(ids) for ids in found] == [1, 4, 3]
    assert [text.finish_reason for text in texts] == ["context", "length", "context"]


@given(st.lists(prompt_ids, min_size=2, max_size=4), st.integers(1, 9), st.integers(0, 11))
@settings(deadline=None, max_examples=60)
def test_a_row_that_ends_early_does_not_disturb_the_others(prompts, context, end):
    texts = texts_of(prompts)

    def stop_first_row(row, token):
        if row == 0 and len(texts[0].new_ids) == end + 1:
            texts[0].finish_reason = "stop"

    found = write(texts, count=12, context=context, on=stop_first_row)
    counts = [end + 1] + [12] * (len(prompts) - 1)
    assert found == [
        written_alone(ids, count=count, context=context)
        for ids, count in zip(prompts, counts, strict=True)
    ]
    assert [text.finish_reason for text in texts] == ["stop"] + ["length"] * (len(prompts) - 1)


@given(st.lists(prompt_ids, min_size=1, max_size=4), st.sets(st.integers(0, VOCABULARY - 1)))
@settings(deadline=None, max_examples=60)
def test_a_text_ends_with_the_first_end_id_that_it_writes(prompts, end_ids):
    texts = texts_of(prompts)
    found = write(texts, count=12, context=9, end_ids=frozenset(end_ids))
    for ids, own, text in zip(prompts, found, texts, strict=True):
        whole = written_alone(ids, count=12, context=9)
        ends = [place for place, token in enumerate(whole) if token in end_ids]
        assert own == whole[: ends[0] + 1 if ends else None]
        assert text.finish_reason == ("eos" if ends else "length")


def test_a_text_that_the_caller_ends_gets_nothing_more_in_the_same_step():
    def stop_the_others(row, token):
        for text in texts[row + 1 :]:
            text.finish_reason = "stop"

    texts = texts_of([[1], [2], [3]])
    found = write(texts, count=4, context=9, on=stop_the_others)
    assert [len(ids) for ids in found] == [4, 0, 0]
    assert [text.finish_reason for text in texts] == ["length", "stop", "stop"]


def test_tokens_come_row_by_row_in_the_order_of_the_steps():
    order = []
    texts = texts_of([[1], [2, 3]])
    write(texts, count=3, context=9, on=lambda row, token: order.append((row, token)))
    assert [row for row, _ in order] == [0, 1] * 3
    assert [token for row, token in order if row == 1] == texts[1].new_ids


def test_nan_logits_end_the_generation_with_an_error():
    def broken(visible):
        return network(visible) * (np.nan if len(visible) > 2 else 1)

    engine = NullEngine(broken, VOCABULARY)
    with pytest.raises(NumericalError, match="token 1 hold NaN"):
        write([Text([1, 2], seed=1, series=2)], count=5, context=9, engine=engine)


def leads(*gaps: float, others: float = -3.0) -> NullEngine:
    """Return an engine whose k-th choice leads by gaps[k]; the largest logit is always 10."""

    def of_length(visible):
        return np.float32([10.0, 10.0 - gaps[len(visible) - 1], others])

    return NullEngine(of_length, 3)


def near_tie(engine: NullEngine, count: int, sampling: Sampling = GREEDY) -> int | None:
    text = Text([1], seed=1, series=2)
    write([text], count=count, context=9, engine=engine, sampling=sampling)
    return text.first_near_tie


def test_a_near_tie_is_a_lead_of_at_most_twice_the_tolerance_of_the_largest_logit():
    # 2 * 1e-5 * 10 = 2e-4
    assert near_tie(leads(1.0, 2.2e-4, 1.8e-4, 1e-5), 4) == 2
    assert near_tie(leads(1.0, 2.2e-4, 3e-4), 3) is None
    assert near_tie(leads(0.0, 1.0), 2) == 0


@pytest.mark.parametrize("series", range(10))
def test_when_sampling_a_near_tie_is_judged_on_the_scale_of_the_scores(series):
    ids, near, tolerance = [1, 2], [], 0.05
    sampling = Sampling(temperature=4.0)
    for step in range(8):
        logits = network(ids)
        choice = choose(logits, sampling, ids, seed=1, series=series, step=step)
        near.append(choice.gap <= 2 * tolerance * np.abs(logits).max() / 4.0)
        ids.append(choice.token)
    text = Text(ids[:2], seed=1, series=series)
    write([text], count=8, context=20, sampling=sampling, tolerance=tolerance)
    assert text.ids == ids
    assert text.first_near_tie == (near.index(True) if any(near) else None)


def test_a_near_tie_for_the_only_place_that_top_k_leaves_counts():
    # An engine that ranks the two in the other order keeps the other one, and so chooses it.
    assert near_tie(leads(1.0, 1e-5), 2, Sampling(temperature=1.0, top_k=1)) == 1


def test_a_token_ruled_out_by_minus_infinity_makes_no_near_tie():
    assert near_tie(leads(1.0, 1.0, others=-math.inf), 2) is None
