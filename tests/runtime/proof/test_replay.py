"""What replaying asks of an engine beyond whole batches: rows that move, rows alone, and ties."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.golden import Continuation, Prompt
from edgegpt.runtime.bundle.golden_fit import golden_of
from edgegpt.runtime.engines.base import Engine, State
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.cpu import OrtState
from edgegpt.runtime.proof.receipt import Check
from edgegpt.runtime.proof.replay import Errors, Replay, Tokens
from edgegpt.runtime.proof.tolerances import TOLERANCES


@pytest.fixture
def engine(small_bundle: Path) -> Iterator[Engine]:
    engine = open_engine(Bundle.open(small_bundle), EngineOptions("cpu"))
    yield engine
    engine.close()


def replayed(folder: Path, engine: Engine) -> Replay:
    bundle = Bundle.open(folder)
    return Replay(bundle, golden_of(bundle), engine, TOLERANCES["float32"])


def decoded(small_bundle: Path, engine: Engine) -> Check:
    return replayed(small_bundle, engine).decode()


def test_a_sound_engine_passes(small_bundle: Path, engine: Engine) -> None:
    assert decoded(small_bundle, engine).passed


def test_rows_that_do_not_move_when_told_to_are_found(
    small_bundle: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(State, "reorder", lambda *_, **__: None)
    assert not decoded(small_bundle, engine).passed


def test_a_step_over_the_first_row_alone_that_is_wrong_is_found(
    small_bundle: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache stays right, and so do the steps over all rows."""
    decode = State.decode

    def wrong(state: State, count: int | None = None) -> None:
        decode(state, count)
        if count == 1:
            logits = state.logits()
            logits[:] = np.roll(logits, 1, axis=-1)

    monkeypatch.setattr(State, "decode", wrong)
    assert not decoded(small_bundle, engine).passed


def test_a_prompt_that_sees_what_a_longer_one_left_in_the_cache_is_found(
    small_bundle: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that nobody has filled yet hold zeros, so a short prompt must come after a long one."""
    run, filled = OrtState._run, {}

    def leaking(state: OrtState, ids, past_len, *rest) -> None:
        run(state, ids, past_len, *rest)
        end = int(past_len.max()) + ids.shape[1]
        if end < filled.setdefault(id(state), 0):
            state.logits()[:] += 1.0
        filled[id(state)] = max(end, filled[id(state)])

    monkeypatch.setattr(OrtState, "_run", leaking)
    assert not replayed(small_bundle, engine).prefill().passed


def test_free_decoding_is_computed_if_the_engine_took_another_token_at_a_tie(
    small_bundle: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an engine that took the reference's tokens would feed itself the same ones."""
    replay = replayed(small_bundle, engine)
    tied = replace(replay.decode(), first_difference=3, margin=0.0)
    monkeypatch.setattr(replay, "decode", lambda: tied)
    decoded, free = replay.checks()[-2:]
    assert (decoded.first_difference, free.first_difference) == (3, None)
    assert free.passed


def test_errors_are_relative_to_the_largest_logit_of_the_whole_prompt() -> None:
    """Pieces of a prompt have limits of their own otherwise, and where they end would matter."""
    prompt = Prompt(np.arange(2), np.float32([[1.0, 0.0], [8.0, 0.0]]))
    errors = Errors()
    errors.add(5, np.float32([[1.5, 0.0]]), prompt, 0)
    errors.add(6, np.float32([[8.0, 1.0]]), prompt, 1)
    assert errors.difference is not None
    assert errors.difference.relative == 1 / 8
    assert errors.by_position == {5: 0.5 / 8, 6: 1 / 8}


def test_the_error_of_a_position_is_the_largest_of_all_rows_that_have_it() -> None:
    prompt, errors = Prompt(np.arange(1), np.float32([[4.0, 0.0]])), Errors()
    for found in ([[5.0, 0.0]], [[4.0, 0.0]]):
        errors.add(3, np.float32(found), prompt, 0)
    assert errors.by_position == {3: 0.25}


def row(*margins: float) -> Continuation:
    """Return greedy tokens 0, 0, ... of two, with logits of 1 at most."""
    logits = np.array([[1.0, 1.0 - margin] for margin in margins], dtype=np.float32)
    return Continuation(np.zeros(len(margins), dtype=np.int64), logits, np.float32(margins))


def test_one_other_token_at_a_clear_lead_counts_whatever_ties_come_later() -> None:
    tokens, golden = Tokens(1e-3), row(0.5, 1e-4)
    assert tokens.add(golden, 0, 0)
    assert not tokens.add(golden, 0, 1)
    assert not tokens.add(golden, 1, 1)
    assert not tokens.agree


def test_the_first_step_with_another_token_is_told_in_whatever_order_rows_come() -> None:
    tokens = Tokens(1e-3)
    tokens.add(row(1e-4, 2e-4, 3e-4), 2, 1)
    tokens.add(row(1e-4, 2e-4, 3e-4), 1, 1)
    tokens.add(row(1e-4, 2e-4, 3e-4), 2, 1)
    assert tokens.agree
    assert (tokens.first, tokens.margin) == (1, pytest.approx(2e-4))
