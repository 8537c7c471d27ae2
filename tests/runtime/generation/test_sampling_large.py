"""Sampling from large vocabularies ranks few ids; and where the ends of filters are in doubt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegpt.runtime.generation import sampling as sampling_module
from edgegpt.runtime.generation.largest import FEW
from edgegpt.runtime.generation.sampling import Choice, Sampling, choose

PLACE = {"seed": 3, "series": 5}


def by_full_ranking(*arguments: object, **settings: object) -> Choice:
    """Choose as `choose` does for small vocabularies: with every id a candidate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_module, "FEW", 10**9)
        return choose(*arguments, **settings)


def many_logits(seed: int, size: int, digits: int, share_of_nothing: float) -> np.ndarray:
    """Return random logits; fewer digits give more ties. Some differ only in the last bit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=size, scale=3).round(digits).astype(np.float32)
    nudged = rng.random(size) < 0.2
    logits[nudged] = np.nextafter(logits[nudged], np.float32(rng.choice([-9, 9])))
    logits[rng.random(size) < share_of_nothing] = -np.inf
    logits[rng.integers(size)] = 1.0  # not all may be -inf
    return logits


@given(
    st.builds(
        Sampling,
        temperature=st.just(0.0) | st.floats(0.05, 5) | st.floats(0.05, 5),
        top_k=st.integers(1, 4),
        top_p=st.just(1.0) | st.floats(0.05, 1),
        min_p=st.just(0.0) | st.floats(0, 0.5),
        repetition_penalty=st.sampled_from([1.0, 0.4, 1.0001, 1.3, 4.0]),
    ),
    st.integers(0, 2**32),
    st.integers(0, 100),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 0.995]),
    st.sampled_from([0.0, 1e-5, 1e-2, 3e-2]),
    st.lists(st.integers(0, 20) | st.integers(0, FEW - 1), max_size=12),
)
@settings(deadline=None, max_examples=500)
def test_the_search_for_candidates_chooses_what_a_full_ranking_does(
    sampling, seed, columns, digits, share_of_nothing, tolerance, ranks
):
    """With 64 k ids and more, only the ids of the best columns and the seen ids are ranked."""
    size = FEW * (sampling.top_k + columns) + seed % FEW
    logits = many_logits(seed, size, digits, share_of_nothing)
    history = np.argsort(-logits)[ranks].tolist()  # among the best, where a penalty matters
    for step in range(4):
        case = {"step": step, "tolerance": tolerance, **PLACE}
        found = choose(logits, sampling, history, **case)
        expected = by_full_ranking(logits, sampling, history, **case)
        assert (found.token, found.near_tie) == (expected.token, expected.near_tie)
        # For a greedy choice far ahead of the other candidates, the gap to all ids is unknown.
        assert found.gap == expected.gap or sampling.temperature == 0.0


def test_the_search_looks_at_few_ids_and_at_all_that_could_be_chosen():
    logits = many_logits(0, 49_152, 6, 0.0)
    ids = sampling_module._candidates(logits, Sampling(1.0, top_k=50), 1e-4)
    assert set(np.argsort(-logits)[:50].tolist()) <= set(ids.tolist())
    assert len(ids) < 500


@given(
    st.builds(
        Sampling,
        temperature=st.floats(0.05, 5),
        top_p=st.just(1.0) | st.floats(0.05, 1) | st.floats(0.9, 0.999),
        min_p=st.just(0.0) | st.floats(0, 0.5) | st.floats(0, 1e-3),
    ),
    st.integers(0, 2**32),
    st.sampled_from([FEW * 64 - 1, FEW * 64, FEW * 512 + 7]),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 0.995]),
    st.sampled_from([0.0, 1e-5, 1e-2, 3e-2]),
)
@settings(deadline=None, max_examples=150)
def test_of_a_large_vocabulary_the_few_best_decide_as_all_do(
    sampling, seed, size, digits, share_of_nothing, tolerance
):
    logits = many_logits(seed, size, digits, share_of_nothing)
    for step in range(2):
        case = {"step": step, "tolerance": tolerance, **PLACE}
        found = choose(logits, sampling, [], **case)
        assert found == by_full_ranking(logits, sampling, [], **case)


def test_a_large_vocabulary_is_sorted_as_a_whole_only_where_it_must(monkeypatch):
    sorted_sizes = []

    def argsort(values, **options):
        sorted_sizes.append(len(values))
        return honest(values, **options)

    honest = np.argsort
    logits = many_logits(0, 49_152, 6, 0.0)
    monkeypatch.setattr(sampling_module.np, "argsort", argsort)
    for sampling in (Sampling(0.8), Sampling(0.3, top_p=0.3), Sampling(0.8, min_p=0.2)):
        choose(logits, sampling, [], step=0, **PLACE)
    assert max(sorted_sizes) < 5_000
    choose(logits, Sampling(5.0, top_p=0.99), [], step=0, **PLACE)
    assert max(sorted_sizes) == len(logits)


@pytest.mark.parametrize(("share", "may_change"), [(0.9001, True), (0.93, True), (0.97, False)])
def test_near_the_end_of_top_p_a_choice_is_a_near_tie_only_if_it_could_end_elsewhere(
    share, may_change
):
    """The best of two ids has this share; with odds changed by exp(0.5), 0.9 can be 0.937."""
    logits = np.log(np.array([share, 1 - share])).astype(np.float32)
    tolerance = 0.25 / -float(logits[1])  # so that each logit may be off by 0.25
    other = logits + np.float32([-0.2499, 0.2499])
    told, changed = set(), False
    for step in range(300):
        found = choose(
            logits, Sampling(1.0, top_p=0.9), [], step=step, tolerance=tolerance, **PLACE
        )
        moved = choose(other, Sampling(1.0, top_p=0.9), [], step=step, **PLACE)
        assert found.token == moved.token or found.near_tie
        told.add(found.near_tie)
        changed = changed or found.token != moved.token
    assert changed == may_change
    assert told == ({True, False} if may_change else {False})


def test_where_min_p_ends_is_told_even_if_the_tolerance_is_wide():
    """The second logit is kept; with logits as far off as the tolerance allows, it is not."""
    logits, other = np.float32([10, 9, -10]), np.float32([11, 8, -10])
    changed = 0
    for step in range(500):
        case = {"step": step, **PLACE}
        found = choose(logits, Sampling(1.0, min_p=0.05), [], tolerance=0.1, **case)
        moved = choose(other, Sampling(1.0, min_p=0.05), [], **case)
        assert found.token == moved.token or found.near_tie
        changed += found.token != moved.token
    assert changed > 10
