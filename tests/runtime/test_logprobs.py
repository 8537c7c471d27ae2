"""Log-probabilities of new tokens are the model's own, whatever chooses among its tokens."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgegpt
from edgegpt import LanguageModel
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.generation.logprobs import logprob_of

PROMPT = "The wind"


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, threads=1) as opened:
        yield opened


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"speculate": 4},
        {"temperature": 1.5, "top_k": 5, "seed": 3},
        {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2},
    ],
    ids=["greedy", "drafted", "sampled", "penalised"],
)
def test_they_are_those_of_score(model: LanguageModel, settings: dict) -> None:
    result = model.generate(PROMPT, max_new_tokens=12, logprobs=3, **settings)
    assert result.logprobs is not None
    assert [one.token_id for one in result.logprobs] == result.token_ids
    scored = model.score(PROMPT, result.token_ids)
    np.testing.assert_allclose([one.logprob for one in result.logprobs], scored, atol=1e-5)
    ids = [*model.encode_prompt(PROMPT), *result.token_ids]
    logits = model.forward([ids])[0, -len(result.token_ids) - 1 : -1].astype(np.float64)
    for one, own in zip(result.logprobs, logits, strict=True):
        right = own - np.logaddexp.reduce(own)
        assert [token for token, _ in one.top] == np.argsort(-right, kind="stable")[:3].tolist()
        np.testing.assert_allclose(
            [found for _, found in one.top], np.sort(right)[::-1][:3], atol=1e-5
        )


def test_each_text_of_a_batch_and_a_stream_has_its_own(model: LanguageModel) -> None:
    alone = [model.generate(one, max_new_tokens=5, logprobs=1) for one in (PROMPT, "rain")]
    together = model.generate([PROMPT, "rain"], max_new_tokens=5, logprobs=1)
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert [x.top[0][0] for x in one.logprobs] == [x.top[0][0] for x in other.logprobs]
    stream = model.stream(PROMPT, max_new_tokens=5, logprobs=1)
    list(stream)
    assert stream.result.logprobs == alone[0].logprobs


def test_none_are_there_unless_asked_for_and_none_beside_the_token_with_0(
    model: LanguageModel,
) -> None:
    assert model.generate(PROMPT, max_new_tokens=2).logprobs is None
    result = model.generate(PROMPT, max_new_tokens=2, logprobs=np.int64(0))
    assert [one.top for one in result.logprobs] == [(), ()]
    assert model.generate(PROMPT, max_new_tokens=0, logprobs=2).logprobs == ()


def test_they_become_json(model: LanguageModel) -> None:
    result = model.generate(PROMPT, max_new_tokens=2, logprobs=2)
    found = json.loads(json.dumps(result.to_dict()))["logprobs"][0]
    assert found["token_id"] == result.token_ids[0]
    assert found["top"][0] == [result.logprobs[0].top[0][0], result.logprobs[0].top[0][1]]


def test_impossible_tokens_are_not_listed() -> None:
    logits = np.array([0.0, -math.inf, 1.0], dtype=np.float32)
    found = logprob_of(logits, 2, 3)
    assert [token for token, _ in found.top] == [2, 0]
    assert math.exp(found.top[0][1]) + math.exp(found.top[1][1]) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [-1, 1.0, True, "2", 10**6])
def test_impossible_counts_are_refused(model: LanguageModel, count: object) -> None:
    with pytest.raises(InvalidInputError, match="whole number from 0 to"):
        model.generate(PROMPT, logprobs=count)


def test_a_search_refers_to_score(model: LanguageModel) -> None:
    with pytest.raises(InvalidInputError, match="logprobs does not go with a search of 2 beams"):
        model.generate(PROMPT, num_beams=2, logprobs=1)
