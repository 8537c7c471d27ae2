"""Prompt lookup: the text of plain decoding, in fewer steps where the text repeats itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgegpt
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.speculation import FIRST_PAUSE, MAX_DRAFT, TRIES, Drafts, Pace

VOCABULARY = 6


def hashing(order: int):
    """Return a network whose favourite token depends on the last `order` tokens only."""

    def network(ids):
        logits = np.zeros(VOCABULARY, dtype=np.float32)
        logits[hash(tuple(ids[-order:])) % VOCABULARY] = 1.0
        return logits

    return network


def written(network, prompt: list[int], count: int, context: int, speculate: int, penalty=1.0):
    """Return the text that the network writes, and the number of steps."""
    engine = NullEngine(network, VOCABULARY)
    text = Text(list(prompt), seed=0, series=0)
    sampling = Sampling(repetition_penalty=penalty)
    rules = Rules(context, count, sampling, "slide", 1e-5, speculate=speculate)
    tokens = generate_tokens(engine, [text], rules)
    assert [token for _, token in tokens] == text.new_ids
    return text.new_ids, engine.steps


@pytest.fixture
def always(monkeypatch) -> None:
    """Draft at every step, because the times of a test engine's steps mean nothing."""
    monkeypatch.setattr(Pace, "wants_drafts", lambda self: True)


@settings(max_examples=200, deadline=None)
@given(
    order=st.integers(1, 4),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    count=st.integers(1, 60),
    context=st.integers(4, 24),
    speculate=st.integers(1, MAX_DRAFT),
    penalty=st.sampled_from([1.0, 1.3]),
)
def test_the_text_is_that_of_plain_decoding(order, prompt, count, context, speculate, penalty):
    network = hashing(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pace, "wants_drafts", lambda self: True)
        drafted, _ = written(network, prompt, count, context, speculate, penalty)
    plain, _ = written(network, prompt, count, context, 0, penalty)
    assert drafted == plain


def test_a_text_that_repeats_itself_takes_a_fraction_of_the_steps(always):
    def cycle(ids):
        return np.eye(VOCABULARY, dtype=np.float32)[(ids[-1] + 1) % VOCABULARY]

    plain, plain_steps = written(cycle, [0, 1, 2, 3, 4, 5, 0, 1, 2], 120, 256, 0)
    drafted, steps = written(cycle, [0, 1, 2, 3, 4, 5, 0, 1, 2], 120, 256, 7)
    assert drafted == plain
    assert plain_steps == 120
    assert steps <= 120 / 6


def test_where_rounding_could_decide_a_single_step_does(always):
    """A step over several tokens favours token 1 by a hair; steps over one token favour 2."""
    sizes = []

    class Uneven(NullEngine):
        def new_state(self, batch, context, sources=None):
            state = super().new_state(batch, context)
            run = state._run

            def noting(ids, *rest):
                sizes.append(ids.shape[1])
                run(ids, *rest)

            state._run = noting
            return state

    def network(ids):
        logits = np.zeros(VOCABULARY, dtype=np.float32)
        several = sizes[-1] > 1 and len(ids) > 4
        logits[1], logits[2] = (1.0 + 1e-6, 1.0) if several else (1.0, 1.0 + 1e-6)
        return logits

    engine = Uneven(network, VOCABULARY)
    text = Text([2, 2, 2, 2], seed=0, series=0)
    rules = Rules(64, 20, Sampling(), "slide", 1e-5, speculate=4)
    list(generate_tokens(engine, [text], rules))
    assert text.new_ids == [2] * 20
    assert max(sizes[1:]) == 5  # drafts were tried


@pytest.mark.parametrize(
    ("ids", "draft"),
    [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # the last occurrence counts
        ([5, 1, 2, 3, 9, 9, 5, 1, 2, 8, 5, 1, 2], [8, 5, 1]),
        ([7, 1, 2, 3, 0, 6, 1, 2, 4, 0, 7, 1, 2], [3, 0, 6]),  # the longer match counts first
        ([1, 2, 3], []),
        ([1], []),
        ([1, 1, 1, 1], [1, 1, 1]),
        ([0, 1, 2, 1, 2], [1, 2, 1]),
    ],
)
def test_drafts_follow_the_last_occurrence_of_the_longest_match(ids, draft):
    assert Drafts().propose(ids, 3) == draft


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=60), st.integers(1, 8))
def test_a_growing_text_gets_the_drafts_of_a_whole_one(ids, count):
    growing = Drafts()
    for end in range(1, len(ids) + 1):
        assert growing.propose(ids[:end], count) == Drafts().propose(ids[:end], count)


def run(pace: Pace, rounds: int, drafted_seconds: float, drafted_tokens: int) -> int:
    """Return how many of `rounds` steps were drafted if a plain step takes a second."""
    pace.note(1.0, 1, was_drafted=False)
    count = 0
    for _ in range(rounds):
        wanted = pace.wants_drafts()
        seconds, tokens = (drafted_seconds, drafted_tokens) if wanted else (1.0, 1)
        pace.note(seconds, tokens, was_drafted=wanted)
        count += wanted
    return count


def test_drafting_goes_on_where_it_pays_and_pauses_ever_longer_where_not():
    assert run(Pace(), 500, drafted_seconds=2.0, drafted_tokens=3) == 500
    bad = Pace()
    assert run(bad, 500, drafted_seconds=2.0, drafted_tokens=1) <= 5 * TRIES
    assert bad.next_pause > 8 * FIRST_PAUSE


def test_before_the_first_plain_step_nothing_is_drafted():
    assert not Pace().wants_drafts()


@pytest.mark.parametrize("prompt", ["rain, rain on tin", "quick as"])
def test_a_real_engine_writes_the_same_text(small_bundle, always, prompt):
    with edgegpt.load(small_bundle, threads=1) as model:
        plain = model.generate(prompt, max_new_tokens=80)
        drafted = model.generate(prompt, max_new_tokens=80, speculate=5)
        assert drafted.token_ids == plain.token_ids
        assert "".join(model.stream(prompt, max_new_tokens=80, speculate=5)) == plain.text


IMPOSSIBLE = [
    {"speculate": -1},
    {"speculate": 16},
    {"speculate": 2.0},
    {"speculate": True},
    {"speculate": 2, "temperature": 0.5},
]


@pytest.mark.parametrize("arguments", IMPOSSIBLE)
def test_impossible_settings_are_refused(small_bundle, arguments):
    with edgegpt.load(small_bundle, threads=1) as model:
        with pytest.raises(InvalidInputError, match="speculate"):
            model.generate("rain", **arguments)
        with pytest.raises(InvalidInputError, match="single prompt"):
            model.generate(["rain", "tin"], speculate=2)
