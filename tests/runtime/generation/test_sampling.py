"""The choice of a token: filters and their order, the sampled distribution, ties, and refusals.

The tests compute what the filters keep a second time, in plain Python from the definitions.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgegpt.runtime.errors import InvalidInputError, NumericalError
from edgegpt.runtime.generation.philox import gumbel
from edgegpt.runtime.generation.sampling import Sampling, choose

PLACE = {"seed": 11, "series": 22}
# Half floats, so that logits that differ still differ after every order of arithmetic.
logit_lists = st.lists(st.floats(-20, 20, width=16), min_size=1, max_size=30)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(0, 35),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
steps = st.integers(0, 2**32 - 1)


def row(*logits: float) -> np.ndarray:
    return np.array(logits, dtype=np.float32)


def pick(logits, step=0, history=(), **sampling):
    return choose(np.float32(logits), Sampling(**sampling), history, step=step, **PLACE)


def token_and_gap(logits, **settings):
    choice = pick(logits, **settings)
    return choice.token, choice.gap


def drawn(logits, history=(), draws=400, **sampling) -> set[int]:
    """Return all ids that come up in many draws."""
    return {pick(logits, step, history, **sampling).token for step in range(draws)}


def kept_ids(logits, sampling: Sampling) -> list[int]:
    """Return what top-k, top-p and min-p keep, from their definitions.

    A case that a rounding error could decide either way is skipped.
    """
    best = max(logits)
    weight = {i: math.exp((x - best) / sampling.temperature) for i, x in enumerate(logits)}
    ranking = sorted(weight, key=lambda i: (-logits[i], i))
    ranking = ranking[: sampling.top_k or len(ranking)]
    total, kept = math.fsum(weight[i] for i in ranking), []
    for token in ranking:
        share = math.fsum(weight[i] for i in kept) / total  # of all better ids
        assume(not kept or sampling.top_p == 1 or abs(share - sampling.top_p) > 1e-9)
        if kept and share >= sampling.top_p and sampling.top_p < 1:
            break
        kept.append(token)
    assume(all(i == kept[0] or abs(weight[i] - sampling.min_p) > 1e-9 for i in kept))
    return [i for i in kept if weight[i] >= sampling.min_p or i == kept[0]]


@given(logit_lists, samplings, steps)
@settings(deadline=None, max_examples=300)
def test_the_choice_is_the_noisy_best_of_what_the_filters_keep(logits, sampling, step):
    kept = kept_ids(logits, sampling)
    noise = gumbel(PLACE["seed"], PLACE["series"], step, np.array(kept))
    score = {i: logits[i] / sampling.temperature + g for i, g in zip(kept, noise, strict=True)}
    first, *others = sorted(score, key=score.__getitem__, reverse=True)
    expected_gap = score[first] - score[others[0]] if others else math.inf
    assume(expected_gap > 1e-9)
    found = choose(np.float32(logits), sampling, [], step=step, **PLACE)
    assert found.token == first
    assert found.gap == pytest.approx(expected_gap, rel=1e-6, abs=1e-9)


@given(logit_lists)
@settings(deadline=None)
def test_temperature_0_takes_the_highest_logit_and_in_a_tie_the_lowest_id(logits):
    assert pick(logits).token == min(range(len(logits)), key=lambda i: (-logits[i], i))


@pytest.mark.parametrize("order", [(1.0, 3.0, 3.0), (3.0, 1.0, 3.0), (1.0, 3.0, 2.0, 3.0)])
def test_a_tie_goes_to_the_lowest_id_with_a_gap_of_0(order):
    assert token_and_gap(order) == (order.index(3.0), 0.0)


def test_the_gap_at_temperature_0_is_the_lead_over_the_second_best():
    assert token_and_gap([1.0, 4.0, 2.5, -7.0]) == (1, 1.5)
    assert token_and_gap([1.0, 2.5, -7.0, 4.0]) == (3, 1.5)
    assert token_and_gap([4.0, 1.0]) == (0, 3.0)


def test_a_token_without_a_rival_has_an_infinite_gap():
    assert token_and_gap([5.0]) == (0, math.inf)
    assert token_and_gap([5.0, 4.0], temperature=1.0, top_k=1) == (0, math.inf)
    assert token_and_gap([-math.inf, 4.0]) == (1, math.inf)


@given(logit_lists, st.floats(0.05, 5), steps)
@settings(deadline=None)
def test_top_k_1_is_greedy_at_every_temperature(logits, temperature, step):
    assert pick(logits, step, temperature=temperature, top_k=1).token == pick(logits).token


@given(logit_lists, samplings, steps, st.integers(1, 20))
@settings(deadline=None)
def test_ids_far_below_the_cut_do_not_change_the_draw(logits, sampling, step, added):
    short = choose(np.float32(logits), sampling, [], step=step, **PLACE)
    longer = np.float32(logits + [-10_000.0] * added)
    assert choose(longer, sampling, [], step=step, **PLACE).token == short.token


@pytest.mark.parametrize("temperature", [1e-3, 1e-310, 5e-324])
def test_a_temperature_near_0_is_nearly_greedy(temperature):
    assert pick([3.0, 5.0, 4.0], temperature=temperature).token == 1
    assert pick([3.0, 5.0, 4.0], temperature=temperature, min_p=0.1, top_p=0.9).token == 1


def test_filters_that_are_off_keep_every_id():
    assert drawn([1.0, 1.1, 1.2, 0.9], temperature=1.0) == {0, 1, 2, 3}
    assert drawn([1.0, 1.1, 1.2, 0.9], temperature=1.0, top_k=0) == {0, 1, 2, 3}


def test_a_top_p_however_small_keeps_the_likeliest_token():
    assert drawn([1.0, 1.1, 1.2], temperature=1.0, top_p=1e-12, draws=50) == {2}


def test_top_p_keeps_the_fewest_tokens_whose_probabilities_reach_it():
    equal = [0.0, 0.0, 0.0, 0.0]
    assert drawn(equal, temperature=1.0, top_p=0.5) == {0, 1}
    assert drawn(equal, temperature=1.0, top_p=0.51) == {0, 1, 2}


def test_min_p_keeps_tokens_at_least_so_likely_relative_to_the_likeliest():
    logits = [0.0, math.log(0.51), math.log(0.49)]
    assert drawn(logits, temperature=1.0, min_p=0.5) == {0, 1}
    assert drawn([0.0, 0.0, -0.1], temperature=1.0, min_p=1.0) == {0, 1}


def test_a_penalty_divides_positive_logits_of_seen_ids():
    assert token_and_gap([2.0, 1.5], history=[0], repetition_penalty=1.3) == (
        0,
        pytest.approx(2 / 1.3 - 1.5),
    )
    assert token_and_gap([2.0, 1.5], history=[0], repetition_penalty=2.0) == (1, 0.5)


def test_a_penalty_multiplies_negative_logits_of_seen_ids():
    assert token_and_gap([-1.0, -1.5], history=[0], repetition_penalty=2.0) == (1, 0.5)


def test_a_penalty_counts_each_seen_id_once():
    assert pick([2.0, 0.9], history=[0, 0, 0], repetition_penalty=2.0).token == 0


def test_a_penalty_below_1_favours_seen_ids():
    assert token_and_gap([2.0, 1.5], history=[1], repetition_penalty=0.5) == (1, 1.0)


def test_the_callers_logits_stay_as_they_were():
    logits = row(2.0, 1.5, -1.0)
    settings_ = Sampling(temperature=0.7, top_k=2, top_p=0.9, repetition_penalty=2.0)
    choose(logits, settings_, [0, 2], step=0, **PLACE)
    assert logits.tolist() == [2.0, 1.5, -1.0]


def test_the_penalty_comes_before_top_k():
    # In the other order, top-k would keep only id 0.
    assert drawn([2.0, 1.5], [0], temperature=1.0, top_k=1, repetition_penalty=2.0) == {1}


def test_the_temperature_comes_before_top_p():
    # At temperature 1 the first id has a probability of 0.95, and only that id would be kept.
    assert drawn([3.0, 0.0], temperature=10.0, top_p=0.9) == {0, 1}


def test_the_temperature_comes_before_min_p():
    assert drawn([3.0, 0.0], temperature=10.0, min_p=0.5) == {0, 1}


def test_top_k_comes_before_top_p():
    # Of 0.4, 0.3, 0.3, top-k leaves 0.57, 0.43, so top-p keeps one id. With top-p first, 0.4 would
    # not reach 0.5, and two ids would be kept.
    assert drawn(np.log([0.4, 0.3, 0.3]), temperature=1.0, top_k=2, top_p=0.5) == {0}


def test_top_p_comes_before_min_p():
    # With min-p first, 0.66 and 0.34 would be left, and 0.66 alone reaches 0.6.
    logits = np.log([0.5, 0.26, 0.24])
    assert drawn(logits, temperature=1.0, top_p=0.6, min_p=0.5) == {0, 1}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_follow_the_softmax(temperature):
    logits = np.array([1.0, 0.5, 0.0, -0.5, 2.0, 1.5, -1.0, 0.25])
    draws = 20_000
    counts = np.zeros(len(logits))
    for step in range(draws):
        counts[pick(logits, step, temperature=temperature).token] += 1
    expected = np.exp(logits / temperature)
    expected *= draws / expected.sum()
    assert expected.min() > 5  # or chi-square would not apply
    # Wilson-Hilferty: the chance that chi-square with k = 7 degrees of freedom exceeds
    # k (1 - a + z sqrt(a))^3, a = 2 / 9k, is the chance that a normal variable exceeds z: 1e-4 for
    # z = 3.719. The bound is 30.4.
    share = 2 / (9 * 7)
    bound = 7 * (1 - share + 3.719 * math.sqrt(share)) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < bound


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ([1.0, math.nan, 2.0], "NaN"),
        ([1.0, math.inf, 2.0], r"\+inf"),
        ([math.inf, math.nan], "NaN"),
        ([-math.inf, -math.inf], "nothing but -inf"),
        ([math.nan, -math.inf], "NaN"),
    ],
)
def test_logits_that_are_not_numbers_are_refused(temperature, bad, named):
    with pytest.raises(NumericalError, match=f"token 7 hold {named}"):
        pick(bad, 7, temperature=temperature)


def test_ids_with_a_logit_of_minus_infinity_are_never_drawn():
    logits = [-math.inf, 0.0, -math.inf, 0.5]
    assert drawn(logits, temperature=1.0) == {1, 3}
    assert drawn(logits, temperature=1.0, top_k=3, top_p=0.999, min_p=0.01) == {1, 3}
    assert drawn(logits, [0, 1], temperature=1.0, repetition_penalty=1.5) == {1, 3}
    assert token_and_gap(logits) == (3, 0.5)


OUT_OF_RANGE = {
    "temperature": [-0.1, math.nan, math.inf, 10**400],
    "top_k": [-1],
    "top_p": [0.0, -0.5, 1.01, math.nan],
    "min_p": [-0.1, 1.01, math.nan],
    "repetition_penalty": [0.0, -1.0, math.nan, math.inf],
}
WRONG_TYPE = {
    "temperature": ["hot", None],
    "top_k": [2.5, "many"],
    "top_p": ["most", None],
    "min_p": ["some", None],
    "repetition_penalty": ["high", None],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in OUT_OF_RANGE.items() for v in vs])
def test_a_setting_out_of_its_range_is_refused_by_name(name, value):
    with pytest.raises(InvalidInputError, match=f"^{name} is"):
        Sampling(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG_TYPE.items() for v in vs])
def test_a_setting_that_is_no_number_of_its_kind_is_refused_by_name(name, value):
    with pytest.raises(InvalidInputError, match=f"^{name} is"):
        Sampling(**{name: value})


def test_settings_at_the_edge_of_their_range_are_accepted():
    edges = Sampling(temperature=0, top_k=0, top_p=1, min_p=1, repetition_penalty=1e-3)
    assert choose(row(1.0, 2.0), edges, [], step=0, **PLACE).token == 1


@given(
    st.integers(0, 2**32),
    st.floats(0.0, 2.0),
    st.integers(0, 8),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.5),
    st.floats(0.5, 2.0),
)
@settings(deadline=None, max_examples=400)
def test_logits_within_the_tolerance_choose_the_same_token_or_it_was_called_a_near_tie(
    seed, temperature, top_k, top_p, min_p, penalty
):
    """The promise to users: same seed, same text on any engine up to the first near tie."""
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty)
    tolerance, rng = 1e-3, np.random.default_rng(seed)
    logits = rng.normal(size=12).round(2).astype(np.float32)  # rounding makes ties common
    largest = float(np.abs(logits).max())
    history = [3, 5]
    choice = choose(logits, sampling, history, step=0, tolerance=tolerance, **PLACE)
    for _ in range(10):
        error = rng.choice([-1, 1, 0.5], size=12) * tolerance * largest * 0.999
        other = choose((logits + error).astype(np.float32), sampling, history, step=0, **PLACE)
        assert other.token == choice.token or choice.near_tie


@pytest.mark.parametrize(
    ("logits", "top_k"), [((1.0, 1.0 - 1e-5, -3.0), 1), ((2.0, 0.0, -1e-5, -3.0), 2)]
)
def test_where_logits_are_tied_across_the_end_of_top_k_what_may_come_in_counts(logits, top_k):
    """Another engine has the two in the other order, so that top-k keeps the other one."""
    here = np.float32(logits)
    there = here.copy()
    there[[top_k - 1, top_k]] = here[[top_k, top_k - 1]]
    changed, sampling = 0, Sampling(1.0, top_k=top_k)
    for step in range(200):
        found = choose(here, sampling, [], step=step, tolerance=1e-4, **PLACE)
        moved = choose(there, sampling, [], step=step, **PLACE)
        assert found.token == moved.token or found.near_tie
        changed += found.token != moved.token
    assert changed > 10


def test_the_likeliest_token_alone_is_no_near_tie_where_min_p_can_only_keep_it():
    sampling = Sampling(1.0, min_p=0.9)
    assert not choose(row(1.0, -5.0), sampling, [], step=0, tolerance=0.06, **PLACE).near_tie


def test_a_penalty_is_computed_in_float64():
    """In float32 both logits, divided by 1.9, would be the same score, and the first one win."""
    second = np.nextafter(np.float32(2.0), np.float32(0.0))
    first = np.nextafter(second, np.float32(0.0))
    sampling = Sampling(repetition_penalty=1.9)
    choice = choose(row(first, second), sampling, [0, 1], step=0, **PLACE)
    assert choice.token == 1
    assert choice.gap == pytest.approx((float(second) - float(first)) / 1.9)


@pytest.mark.parametrize(
    ("penalty", "logits"), [(3.0, (-1.0, -1.0001, -9.0)), (1 / 3, (1.0, 0.9999, -9.0))]
)
def test_a_penalty_that_stretches_a_gap_stretches_what_counts_as_a_tie(penalty, logits):
    """The gap is 3e-4 then, and two logits of up to 9 may come closer by 1.8e-4, three times."""
    sampling = Sampling(repetition_penalty=penalty)
    choice = choose(row(*logits), sampling, [0, 1], step=0, tolerance=1e-5, **PLACE)
    assert choice.gap == pytest.approx(3e-4, rel=0.01)
    assert choice.near_tie
