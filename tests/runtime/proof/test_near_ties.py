"""What decides what a near tie is: the errors that receipts have where tokens were chosen."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import Engine
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.proof import near_ties
from edgegpt.runtime.proof.near_ties import tie_tolerance
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.receipt_store import keep
from edgegpt.runtime.proof.verify import verify

LIMIT = 0.2  # as if the bundle were in int8


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(near_ties, "tolerance_of", lambda bundle, engine: LIMIT)


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


@pytest.fixture(scope="module")
def measured(bundle: Bundle) -> Receipt:
    return verify(bundle)


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    opened = open_engine(bundle)
    yield opened
    opened.close()


def with_errors(receipt: Receipt, errors: dict[str, float]) -> Receipt:
    """Return the receipt with other errors of its checks."""
    checks = [
        replace(check, difference=replace(check.difference, relative=errors.get(check.name, 0.0)))
        for check in receipt.checks
    ]
    return replace(receipt, checks=checks)


def test_it_is_twice_the_largest_error_where_tokens_were_chosen(
    bundle: Bundle, measured: Receipt, engine: Engine
) -> None:
    keep(with_errors(measured, {"prefill": 0.1, "decode": 3e-3, "standard continuation": 4e-3}))
    assert tie_tolerance(bundle, engine) == 8e-3
    keep(with_errors(measured, {"prefill": 0.1, "many rows": 1.0, "decode": 5e-3}))
    assert tie_tolerance(bundle, engine) == 1e-2  # there is no check of many rows
    assert LanguageModel(bundle, engine).tolerance == 1e-2


def test_it_is_at_least_the_limit_of_float32_and_at_most_that_of_the_precision(
    bundle: Bundle, measured: Receipt, engine: Engine
) -> None:
    keep(with_errors(measured, {"decode": 2e-6}))
    assert tie_tolerance(bundle, engine) == 1e-5
    keep(with_errors(measured, {"decode": 0.11}))
    assert tie_tolerance(bundle, engine) == LIMIT


def test_receipts_of_other_engines_count_if_they_passed(
    bundle: Bundle, measured: Receipt, engine: Engine
) -> None:
    keep(replace(with_errors(measured, {"decode": 7e-3}), device="cuda"))
    assert tie_tolerance(bundle, engine) == 1.4e-2
    failed = [replace(check, passed=False) for check in measured.checks]
    wrong = replace(measured, checks=failed, device="other")
    keep(with_errors(wrong, {"decode": 9e-3}))
    assert tie_tolerance(bundle, engine) == 1.4e-2


def test_without_a_receipt_of_the_engine_it_is_all_that_the_precision_allows(
    bundle: Bundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tie_tolerance(bundle, engine) == 1e-5
    other = replace(engine.info, version="9.99")
    monkeypatch.setattr(type(engine), "info", property(lambda self: other))
    assert tie_tolerance(bundle, engine) == LIMIT


@pytest.mark.parametrize("checks", ["0", "[1]", '[{"name": "decode"}]', '[{"name": 3}]', "null"])
def test_a_receipt_with_other_checks_than_receipts_have_is_none(
    bundle: Bundle, engine: Engine, measured: Receipt, checks: str
) -> None:
    path = keep(replace(measured, device="cuda"))
    assert path is not None
    damaged = path.read_text().replace('"checks": [', f'"checks": {checks}, "others": [')
    path.write_text(damaged)
    assert tie_tolerance(bundle, engine) == 1e-5
