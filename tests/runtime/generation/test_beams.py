"""Beam search and edits, against transformers on the same logits, and the rows that follow them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from beam_cases import Case, backend, case, stopping_case, theirs

from edgegpt.runtime.engines.null import NullEngine, NullState
from edgegpt.runtime.errors import InvalidInputError, NumericalError
from edgegpt.runtime.generation.beams import HOPELESS, BeamRules, BeamSearch
from edgegpt.runtime.generation.edits import BadWords, NoRepeat
from edgegpt.runtime.generation.following import follow
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints")  # of no use here

CASES = 240
CONTEXT = 32


def engine_of(case: Case) -> NullEngine:
    return NullEngine(case.network, case.vocabulary)


def followed(case: Case, told=lambda: None) -> list[BeamSearch]:
    """Search on the rows of a state, all prompts together."""
    searches = case.searches()
    state = engine_of(case).new_state(len(searches) * case.beams, CONTEXT)
    follow(state, searches, told)
    return searches


def plainly(case: Case) -> list[BeamSearch]:
    """Search each prompt alone, without any cache."""
    searches = case.searches()
    for search in searches:
        while not search.done:
            search.advance(np.stack([case.network(text) for text in search.texts]))
    return searches


def possible(case: Case, found) -> list:
    """Leave out what transformers returns where there are no more texts: chances of exp(-1e9)."""
    return [
        (score, ids)
        for score, ids in found
        if ids and score * len(ids) ** case.search.length_penalty > HOPELESS / 2
    ]


def assert_as_transformers(drawn: Case, hint: int) -> list[BeamSearch]:
    """Compare the texts and scores of all prompts; return the searches."""
    searches = followed(drawn)
    for search, expected in zip(searches, theirs(drawn), strict=True):
        found, expected = search.best(), possible(drawn, expected)
        assert [one.ids for one in found] == [ids for _, ids in expected], hint
        scores = [score for score, _ in expected]
        assert [one.score for one in found] == pytest.approx(scores, rel=1e-5, abs=1e-5), hint
    return searches


@pytest.mark.parametrize("first", range(0, CASES, 40))
def test_texts_and_scores_are_those_of_transformers(first):
    for seed in range(first, first + 40):
        assert_as_transformers(case(seed), seed)


@pytest.mark.parametrize("first", range(0, CASES, 40))
def test_texts_with_stop_strings_are_those_of_transformers(first):
    ended = 0
    for seed in range(first, first + 40):
        drawn = stopping_case(seed)
        for search in assert_as_transformers(drawn, seed):
            short = [one for one in search.best() if len(one.ids) < drawn.max_new_tokens]
            ended += sum(one.ids[-1] not in drawn.end_ids for one in short)
    assert ended >= 15


def test_edits_without_beams_are_those_of_transformers():
    for seed in range(60):
        drawn = replace(case(seed), beams=1, returned=1)
        texts = [Text(list(prompt), seed=1, series=2) for prompt in drawn.prompts]
        rules = Rules(
            CONTEXT,
            drawn.max_new_tokens,
            Sampling(),
            "stop",
            0.0,
            end_ids=frozenset(drawn.end_ids),
            edits=drawn.edits,
        )
        for _ in generate_tokens(engine_of(drawn), texts, rules):
            pass
        assert [text.new_ids for text in texts] == [ids for ((_, ids),) in theirs(drawn)], seed


@pytest.mark.parametrize("seed", range(40))
def test_beams_that_stay_in_their_rows_write_what_beams_without_rows_do(seed):
    drawn = case(seed)
    for search, alone in zip(followed(drawn), plainly(drawn), strict=True):
        assert search.finished == alone.finished


def test_only_second_children_are_copied_and_only_from_where_they_part(monkeypatch):
    copied, needed = [], []
    drawn = [one for one in map(case, range(20)) if one.search.forced_bos is None]

    def record(state, sources, targets, since, slots):
        copied.append((len(targets), slots - since))
        copy(state, sources, targets, since, slots)

    copy = NullState._copy_rows
    monkeypatch.setattr(NullState, "_copy_rows", record)
    for one in drawn:
        one = replace(one, prompts=one.prompts[:1])
        begin = len(copied)
        followed(one)
        copied.pop(begin)  # the prompt
        (search,) = one.searches()
        while True:
            before = search.texts
            moves = search.advance(np.stack([one.network(text) for text in before]))
            if search.done:
                break
            rows = [row for row, parent in enumerate(moves.parents) if row != parent]
            assert not set(rows) & set(moves.parents)  # whoever has children keeps one
            same = [common(before[row], before[moves.parents[row]]) for row in rows]
            if rows and min(same) < len(before[0]):
                needed.append((len(rows), len(before[0]) - min(same)))
    assert copied == needed
    assert sum(rows * slots for rows, slots in copied) > 50


def common(first, second) -> int:
    """Return how many leading ids are equal."""
    pairs = zip(first, second, strict=True)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), len(first))


def test_a_prompt_that_is_done_costs_nothing_more():
    drawn = next(
        one for one in map(case, range(100)) if len({search.step for search in plainly(one)}) > 2
    )
    lasting, rows = [search.step for search in plainly(drawn)], []
    engine = engine_of(drawn)
    state = engine.new_state(len(drawn.prompts) * drawn.beams, CONTEXT)
    decode = state.decode
    state.decode = lambda count: (rows.append(count), decode(count))
    follow(state, drawn.searches(), lambda: None)
    steps = range(1, max(lasting))
    assert rows == [drawn.beams * sum(last > step for last in lasting) for step in steps]
    assert rows[-1] < rows[0]


def alone(logits, rules, **settings) -> BeamSearch:
    """Search from logits [V] that are the same in every step."""
    search = BeamSearch([0], rules, **settings)
    while not search.done:
        search.advance(np.tile(np.float32(logits), (rules.count, 1)))
    return search


def test_the_score_counts_new_tokens_and_the_end_but_not_the_prompt():
    logits = np.log([0.1, 0.2, 0.7])
    (best,) = alone(logits, BeamRules(2), steps=5, end_ids=frozenset([2])).best()
    assert best.ids == [2]
    assert best.score == pytest.approx(math.log(0.7))
    (best,) = alone(logits, BeamRules(2, length_penalty=2.0), steps=3).best()
    assert best.ids == [2, 2, 2]
    assert best.score == pytest.approx(3 * math.log(0.7) / 9)


def test_there_are_beams_left_when_the_likeliest_ids_all_end_a_text():
    rules = BeamRules(2, length_penalty=4.0, early_stopping="never")
    search = BeamSearch([0], rules, steps=9, end_ids=frozenset([1, 2, 3]))
    for length in (2, 3):
        search.advance(np.float32([[0.0, 5.0, 5.1, 5.2, 1.0, 0.5]] * 2))
        assert not search.done
        assert (search.totals > HOPELESS / 2).all()
        assert [len(text) for text in search.texts] == [length, length]


@pytest.mark.parametrize(
    ("lead", "tolerance", "is_close"), [(1e-3, 1e-5, False), (1e-3, 1e-2, True), (1e-6, 1e-5, True)]
)
def test_a_near_tie_is_a_choice_that_the_tolerance_could_change(lead, tolerance, is_close):
    logits = [1.0, 1.0 + lead, 0.0, -1.0, 3.0]
    search = alone(logits, BeamRules(2), steps=2, tolerance=tolerance)
    search.best()
    assert search.near_tie == is_close


def searched(number: int, noise: int | None = None) -> BeamSearch:
    """Search a random table; by `noise`, each logit is off by a little less than the tolerance."""
    drawn, tolerance = np.random.default_rng(number), 1e-3
    count, ends = int(drawn.integers(2, 4)), frozenset([3, 5][: drawn.integers(3)])
    stopping = [False, True, "never"][drawn.integers(3)]
    penalty, returned = float(drawn.choice([0, 1, -1, 2])), int(drawn.integers(1, count + 1))
    rules, steps = BeamRules(count, returned, penalty, stopping), int(drawn.integers(2, 6))
    search = BeamSearch([1], rules, steps=steps, end_ids=ends, tolerance=tolerance)
    signs = np.random.default_rng(noise)
    while not search.done:
        # Rounding makes ties common.
        tables = [np.random.default_rng([number, *text]).normal(size=8) for text in search.texts]
        logits = np.round(tables, 1)  # (beams, 8)
        if noise is not None:
            error = 0.9 * tolerance * np.abs(logits).max(axis=1, keepdims=True)
            logits += error * signs.choice([-1, 1], logits.shape)
        search.advance(logits.astype(np.float32))
    return search


def test_logits_within_the_tolerance_give_the_same_texts_or_it_was_called_a_near_tie():
    changed = 0
    for number in range(400):
        search = searched(number)
        texts = [one.ids for one in search.best()]
        for noise in range(3):
            differs = [one.ids for one in searched(number, noise).best()] != texts
            assert search.near_tie or not differs
            changed += differs
    assert changed > 30


@pytest.mark.parametrize(("lead", "is_close"), [(1.0, False), (1e-6, True)])
def test_where_stop_strings_leave_too_few_beams_the_last_candidates_may_be_tied(lead, is_close):
    """The three likeliest of the four candidates end; the fourth and the fifth differ by `lead`."""
    drawn = replace(stopping_case(0), vocabulary=14, stops=("aa", "ba", "ca"))
    logits = np.full(14, -20.0)
    for text, score in {"aa": 9.0, "ba": 7.0, "ca": 5.0, "ab": 3.0, "b": 3.0 - lead}.items():
        logits[backend(14).token_to_id(text)] = score
    search = BeamSearch([0], BeamRules(2), steps=9, tolerance=1e-6, watch=drawn.watch([0]))
    search.advance(np.tile(np.float32(logits), (2, 1)))
    assert len(search.finished) == 2
    assert search.near_tie == is_close


def test_what_is_no_number_is_an_error():
    search = BeamSearch([1], BeamRules(2), steps=2)
    with pytest.raises(NumericalError, match="token 0 are not finite"):
        search.advance(np.float32([[1, np.nan, 1]] * 2))


def test_edits_that_leave_nothing_are_an_error():
    words = BadWords(tuple((token,) for token in range(4)))
    with pytest.raises(InvalidInputError, match="forbid every id as new token 0"):
        alone([0.0] * 4, BeamRules(2), steps=2, edits=[words])


def test_a_text_that_ran_out_of_ids_leaves_the_search():
    """After three ids each of which may occur once, there is none; no text has reached its end."""
    with pytest.raises(InvalidInputError, match="forbid every id"):
        alone([0.0, 1.0, 2.0, 3.0], BeamRules(2), steps=9, edits=[NoRepeat(1)])
    found = alone(
        [0.0, 1.0, 2.0, 3.0], BeamRules(2), steps=9, edits=[NoRepeat(1)], end_ids=frozenset([1])
    )
    assert found.best()[0].ids[-1] == 1
