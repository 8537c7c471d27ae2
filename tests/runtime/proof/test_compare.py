"""The figures of a comparison, computed by hand, and the tolerances that judge them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegpt.runtime.bundle.golden import Top
from edgegpt.runtime.proof.compare import Difference, compare
from edgegpt.runtime.proof.tolerances import TOLERANCES, is_tie

finite_rows = st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 3), min_size=1, max_size=5).map(
    np.float32
)


def logits(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_the_error_is_the_largest_one_and_relative_to_the_largest_reference_logit():
    found = compare(logits([1.0, 2.0], [3.5, -8.0]), logits([1.0, 2.25], [3.0, -8.0]))
    assert found.max_abs == 0.5
    assert found.relative == 0.5 / 8.0
    assert found.positions == 2


def test_the_scale_is_the_references_and_not_the_engines():
    assert compare(logits([1.0, 40.0]), logits([1.0, 4.0])).relative == 36.0 / 4.0


def test_the_divergence_is_that_of_the_worst_position_in_nats():
    # softmax(ln 3, 0) = (3/4, 1/4); softmax(0, 0) = (1/2, 1/2)
    reference = logits([math.log(3), 0.0], [0.0, 0.0])
    found = compare(logits([0.0, 0.0], [0.0, 0.0]), reference)
    assert found.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    # In the other order, KL is another number: the reference comes first.
    turned = compare(reference, logits([0.0, 0.0], [0.0, 0.0]))
    assert turned.kl == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-6)


@given(finite_rows)
def test_equal_logits_do_not_differ(rows):
    found = compare(rows, rows.copy())
    assert found == Difference(0.0, 0.0, 0.0, 1.0, len(rows))


@given(finite_rows, st.floats(-100, 100, width=32))
def test_a_constant_added_to_a_row_diverges_by_nothing(rows, constant):
    assert compare(rows + np.float32(constant), rows).kl < 1e-4


@given(finite_rows, st.data())
def test_no_figure_is_negative(rows, data):
    other = np.float32(data.draw(st.permutations(rows.tolist())))
    found = compare(other, rows)
    assert min(found.max_abs, found.relative, found.kl, found.top1_agreement) >= 0
    assert found.max_abs == np.abs(other.astype(np.float64) - rows).max()


def test_the_agreement_is_the_share_of_positions_with_the_same_best_token():
    reference = logits([1, 2], [2, 1], [2, 1], [0, 5])
    found = logits([1, 2], [2, 1], [1, 2], [0, 5])
    assert compare(found, reference).top1_agreement == 0.75


def test_huge_logits_give_finite_figures():
    found = compare(logits([3e38, -3e38]), logits([-3e38, 3e38]))
    assert found.relative == pytest.approx(2.0)
    assert math.isfinite(found.kl)


def test_a_reference_of_zeros_tells_equal_from_different():
    zeros = logits([0.0, 0.0])
    assert compare(zeros, zeros).relative == 0.0
    assert compare(logits([0.0, 1e-30]), zeros).relative == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["found", "reference", "both"])
def test_anything_not_finite_makes_the_errors_infinite(bad, side):
    good, broken = logits([1.0, 2.0], [3.0, 4.0]), logits([1.0, 2.0], [3.0, bad])
    found = compare(
        *{"found": (broken, good), "reference": (good, broken)}.get(side, (broken,) * 2)
    )
    assert (found.max_abs, found.relative, found.kl) == (math.inf,) * 3
    assert found.positions == 2


def test_kept_logits_may_be_in_any_order():
    reference, top = logits([1.0, 4.0, 2.0]), Top(np.array([[5, 0, 3]]), np.float32([4.2]))
    found = np.zeros((1, 6), dtype=np.float32)
    found[0, [5, 0, 3]] = reference[0]
    assert compare(found, reference, top).top1_agreement == 1.0


def test_joining_takes_the_worst_and_weighs_the_agreement_by_positions():
    first, second = Difference(1.0, 0.5, 0.1, 1.0, 3), Difference(0.5, 0.7, 0.2, 0.0, 1)
    assert first.join(second) == Difference(1.0, 0.7, 0.2, 0.75, 4)
    assert second.join(first) == first.join(second)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_joining_forgets_no_nan_and_no_infinity(bad):
    good, broken = Difference(1.0, 0.5, 0.1, 1.0, 3), Difference(bad, bad, bad, 1.0, 1)
    for joined in (good.join(broken), broken.join(good)):
        for figure in (joined.max_abs, joined.relative, joined.kl):
            assert np.array_equal(figure, bad, equal_nan=True)
            assert not figure <= 1e9  # so no tolerance lets it pass


def test_comparing_in_parts_and_joining_is_comparing_at_once():
    rng = np.random.default_rng(0)
    found, reference = rng.normal(size=(2, 7, 5)).astype(np.float32)
    joined = compare(found[:3], reference[:3]).join(compare(found[3:], reference[3:]))
    whole = compare(found, reference)
    assert (joined.max_abs, joined.kl, joined.positions) == (whole.max_abs, whole.kl, 7)
    assert joined.top1_agreement == pytest.approx(whole.top1_agreement)


def test_a_tie_is_a_lead_of_at_most_twice_the_tolerance_of_the_largest_logit():
    row = np.float32([1.0, -8.0, 4.0])
    assert is_tie(row, 16 * 0.125, 0.125)
    assert not is_tie(row, 16 * 0.125 + 1e-6, 0.125)
    assert is_tie(row, 0.0, 0.0)


@given(finite_rows, st.data())
def test_an_engine_within_the_tolerance_changes_only_ties(rows, data):
    tolerance = data.draw(st.sampled_from([1e-3, 1e-2, 0.1]))
    scale = tolerance * float(np.abs(rows[0]).max())
    moves = data.draw(st.tuples(*[st.floats(-1, 1)] * 3))
    moved = rows[0].astype(np.float64) + scale * np.array(moves)
    best = int(rows[0].argmax())
    if int(moved.argmax()) != best:
        margin = float(np.float64(rows[0][best]) - rows[0][int(moved.argmax())])
        assert is_tie(rows[0], margin * (1 - 1e-12), tolerance)


def test_float32_may_be_off_by_one_in_a_hundred_thousand():
    assert TOLERANCES["float32"] == 1e-5


def test_the_limits_are_those_that_the_documentation_justifies():
    others = {"half weights": 5e-4, "half cache": 6e-3, "tf32": 1e-2, "float16": 2e-2}
    others["bfloat16"] = 0.16
    assert others | {"float32": 1e-5, "int8": 0.2, "int4": 0.2} == TOLERANCES
