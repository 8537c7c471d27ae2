"""Whole numbers of numpy are whole numbers; others, and what is too large, end in one sentence."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgegpt
from edgegpt.runtime.engines.ort import cpu
from edgegpt.runtime.errors import EngineError, InvalidInputError
from edgegpt.runtime.language_model import LanguageModel

SAMPLED = {"temperature": 0.9, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, context=np.int64(24), threads=np.int32(1)) as opened:
        assert type(opened.context) is int
        yield opened


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"max_new_tokens": np.uint8(40)}, {"max_new_tokens": 40}),
        ({"seed": np.uint64(2**64 - 1), **SAMPLED}, {"seed": 2**64 - 1, **SAMPLED}),
        ({"seed": np.int8(3), "top_k": np.int16(5), **SAMPLED}, {"seed": 3, "top_k": 5, **SAMPLED}),
        ({"speculate": np.int64(4)}, {"speculate": 4}),
        ({"end_ids": np.int64(4)}, {"end_ids": 4}),
        (
            {"num_beams": np.int64(3), "num_return_sequences": np.int32(2), "max_new_tokens": 5},
            {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5},
        ),
        (
            {
                "no_repeat_ngram_size": np.int8(2),
                "min_new_tokens": np.int8(4),
                "forced_bos": np.int8(3),
            },
            {"no_repeat_ngram_size": 2, "min_new_tokens": 4, "forced_bos": 3},
        ),
    ],
)
def test_numbers_of_numpy_give_the_same_text(
    model: LanguageModel, given: dict[str, Any], plain: dict[str, Any]
) -> None:
    found, expected = model.generate("The wind", **given), model.generate("The wind", **plain)
    assert found.token_ids == expected.token_ids
    assert type(found.seed) is int


def test_an_array_of_seeds_gives_each_prompt_its_own(model: LanguageModel) -> None:
    found = model.generate(["The", "The"], seed=np.array([5, 6]), **SAMPLED)
    assert [one.seed for one in found] == [5, 6]


@pytest.mark.parametrize("value", [3.0, True, np.bool_(True), np.float64(3), "3"])
@pytest.mark.parametrize("name", ["max_new_tokens", "seed", "top_k", "speculate"])
def test_what_is_no_whole_number_is_refused(model: LanguageModel, name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name.replace("_", ".")):
        model.generate("The", **{name: value})


@pytest.mark.parametrize("penalty", [1e308, 1e-308])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 1}, {"num_beams": 3}])
def test_any_penalty_is_computed_without_a_warning(
    model: LanguageModel, penalty: float, settings: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        wanted = {"repetition_penalty": penalty, "max_new_tokens": 12} | settings
        found = model.generate("The wind", **wanted).token_ids
    assert len(found) == 12


def test_a_batch_beyond_the_memory_is_refused_with_both_numbers(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "available_memory", lambda: 100_000)
    assert model.generate("The", max_new_tokens=12).text
    told = r"a cache of 0\.6 MB, and 0\.1 MB are there, for 80 rows of 15 tokens: choose a smaller"
    with pytest.raises(EngineError, match=told):
        model.generate(["The"] * 80, max_new_tokens=12)
