"""Choosing from the best logits alone gives the same token, gap and near tie as from all logits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgegpt.runtime.engines.candidates import Candidates
from edgegpt.runtime.engines.null import NullEngine, NullState
from edgegpt.runtime.errors import NumericalError
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import SPARE, Sampling, choose

PLACE = {"seed": 11, "series": 22}
# Few distinct values give ties, half-precision floats give near ties, and floats give neither.
numbers = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-20, 20, width=16), st.floats(-100, 100, width=32)
)
rows = st.integers(2, 60).flatmap(lambda size: arrays(np.float32, size, elements=numbers))
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-310, 0.05, 0.8, 5.0]),
    top_k=st.none() | st.integers(0, 20),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
)
tolerances = st.sampled_from([0.0, 1e-5, 1e-2, 0.2])


class FetchedError(Exception):
    """All logits were asked for."""


def best_of(logits: np.ndarray, count: int, fetch=None, seed: int = 0) -> Candidates:
    """Return the best `count` logits in any order; ties at the cutoff are broken at random."""
    shuffled = np.random.default_rng(seed).permutation(len(logits))
    picked = shuffled[np.argsort(-logits[shuffled], kind="stable")[:count]]
    picked = np.random.default_rng(seed + 1).permutation(picked)
    finite = bool(np.isfinite(logits).all())
    return Candidates(
        picked, logits[picked], float(logits.min()), finite, len(logits), fetch or (lambda: logits)
    )


def refuse() -> np.ndarray:
    raise FetchedError


@given(
    rows,
    samplings,
    tolerances,
    st.integers(1, 40),
    st.integers(0, 99),
    st.integers(0, 2**31),
    st.none() | st.integers(1, 60),
)
@settings(deadline=None, max_examples=400)
def test_the_choice_is_that_from_all_logits(logits, sampling, tolerance, count, step, seed, named):
    settings_ = {**PLACE, "step": step, "tolerance": tolerance, "named": named}
    candidates = best_of(logits, min(count, len(logits)), seed=seed)
    history = [0, len(logits) - 1]
    assert choose(candidates, sampling, history, **settings_) == choose(
        logits, sampling, history, **settings_
    )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, top_k=40, top_p=0.9)])
def test_usual_logits_are_never_fetched(sampling):
    logits = np.random.default_rng(0).normal(0, 3, 5000).astype(np.float32)
    for step in range(200):
        candidates = best_of(logits, sampling.candidates, refuse, seed=step)
        choice = choose(candidates, sampling, [1], step=step, tolerance=1e-5, **PLACE)
        assert choice == choose(logits, sampling, [1], step=step, tolerance=1e-5, **PLACE)


@pytest.mark.parametrize(
    ("logits", "sampling"),
    [
        ([5.0] * 40, Sampling()),  # the lowest id may not be among the candidates
        ([5.0] * 40, Sampling(1.0, top_k=3)),
        (np.linspace(5.0, 4.9, 40), Sampling(1.0, top_k=3)),  # all are within the tolerance
        (np.arange(40), Sampling(1.0)),  # the sum over all logits is needed
        (np.arange(40), Sampling(1.0, top_k=3, repetition_penalty=1.1)),
        (np.arange(40), Sampling(repetition_penalty=1.1)),
        ([*range(39), math.nan], Sampling()),
        ([*range(39), -math.inf], Sampling(1.0, top_k=3)),
    ],
)
def test_where_candidates_leave_it_open_all_logits_are_fetched(logits, sampling):
    row = np.float32(logits)
    with pytest.raises(FetchedError):
        choose(best_of(row, 16, refuse), sampling, [7], step=0, tolerance=0.2, **PLACE)


def test_fewer_candidates_than_top_k_are_not_taken_for_all_that_count():
    # The best token has half the probability of 16 candidates, but not of 20.
    logits = np.float32([math.log(15.5), *[0.0] * 5, *np.linspace(-0.1, -0.2, 30)])
    sampling = Sampling(1.0, top_k=20, top_p=0.5)
    with pytest.raises(FetchedError):
        choose(best_of(logits, 16, refuse), sampling, [], step=0, **PLACE)


def test_nan_behind_the_candidates_is_found():
    logits = np.float32([*range(39), math.nan])
    with pytest.raises(NumericalError, match="NaN"):
        choose(best_of(logits, 16), Sampling(), [], step=0, **PLACE)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), 1 + SPARE),
        (Sampling(top_k=9), 1 + SPARE),
        (Sampling(0.5, top_k=40), 40 + SPARE),
        (Sampling(0.5), 0),
        (Sampling(0.5, top_k=0), 0),
        (Sampling(0.5, top_k=40, repetition_penalty=1.1), 0),
    ],
)
def test_candidates_are_asked_for_only_where_they_suffice(sampling, expected):
    assert sampling.candidates == expected


class PickingState(NullState):
    """Gives candidates; gives all logits only after the prompt, where they are always fetched."""

    def topk(self, count):
        self.engine.asked.append(count)
        return [[best_of(place, count) for place in row] for row in self.result]

    def logits(self):
        assert self.past_len.sum() == 0, "all logits were fetched while decoding"
        return super().logits()


class PickingEngine(NullEngine):
    def new_state(self, batch, context, sources=None):
        self.asked = []
        return PickingState(self, batch, context)


def network(ids) -> np.ndarray:
    """Return logits that make tokens repeat, so that there is something to draft."""
    return np.random.default_rng(ids[-1] % 7).normal(0, 3, 300).astype(np.float32)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, top_k=20)])
@pytest.mark.parametrize("speculate", [0, 3])
def test_generation_from_candidates_writes_the_same_text_and_fetches_nothing_else(
    sampling, speculate
):
    def write(kind):
        engine = kind(network, 300)
        count = 1 if speculate else 2
        texts = [Text([1, 2, row], seed=5, series=row) for row in range(count)]
        drafts = speculate if sampling.temperature == 0.0 else 0
        rules = Rules(40, 30, sampling, "stop", 1e-5, speculate=drafts)
        for _ in generate_tokens(engine, texts, rules):
            pass
        return engine, [(text.ids, text.first_near_tie) for text in texts]

    engine, found = write(PickingEngine)
    assert found == write(NullEngine)[1]
    assert set(engine.asked) == {sampling.candidates}
