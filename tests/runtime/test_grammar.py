"""Texts of a given form: every token leads on to one, and a text ends when it is complete."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_models import TEXT
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

import edgegpt
from edgegpt import LanguageModel
from edgegpt.errors import InvalidInputError
from edgegpt.runtime.generation.grammar import Form, Grammar, Vocabulary
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.text.token_bytes import token_bytes
from edgegpt.runtime.text.tokenizer import Tokenizer

PATTERN = r"[a-e]{3} (wind|rain)s?"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bé", "😀"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([TEXT, '{"name": "x", "age": 12, "tags": []}, ' * 5], trainer)
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    backend.add_tokens([AddedToken("naïve", special=False)])
    return Tokenizer(backend.to_str())


def written(tokenizer: Tokenizer, form: Form, seed: int, *, ends: bool) -> tuple[Text, str]:
    """Write a text of a form from random logits."""
    size = tokenizer.vocab_size
    end_ids = frozenset([tokenizer.backend.token_to_id("<|end|>")] if ends else [])
    grammar = Grammar(form, Vocabulary(tokenizer, size), end_ids)
    rules = Rules(10**4, 400, Sampling(1.0), "stop", 0.0, end_ids=end_ids, edits=(grammar,))
    text, rng = Text([0], seed=seed, series=0), np.random.default_rng(seed)
    while text.finish_reason is None:
        rules.write(text, rng.normal(size=size).astype(np.float32))
    new = text.new_ids[:-1] if text.finish_reason == "eos" else text.new_ids
    return text, tokenizer.decode(new)


@pytest.mark.parametrize("ends", [True, False], ids=["with an end id", "without one"])
@pytest.mark.parametrize("seed", range(15))
def test_random_logits_write_json_of_the_schema(
    byte_level: Tokenizer, seed: int, ends: bool
) -> None:
    text, found = written(byte_level, Form(json_schema=SCHEMA), seed, ends=ends)
    assert text.finish_reason == "stop"
    value = json.loads(found)
    assert set(value) == {"name", "age", "tags"}
    assert len(value["name"]) <= 12
    assert 0 <= value["age"] <= 150
    assert set(value["tags"]) <= {"a", "bé", "😀"}
    assert found == json.dumps(value, separators=(",", ":"), ensure_ascii=False) or "\\" in found


def test_any_object_is_json(byte_level: Tokenizer) -> None:
    ended = 0
    for seed in range(8):
        text, found = written(byte_level, Form(json_schema='{"type": "object"}'), seed, ends=True)
        if text.finish_reason != "length":
            ended += 1
            assert isinstance(json.loads(found), dict)
    assert ended


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.2}, {"speculate": 4}])
def test_a_text_matches_the_expression_and_ends(model: LanguageModel, settings: dict) -> None:
    found = [
        model.generate("The ", regex=PATTERN, max_new_tokens=40, seed=seed, **settings)
        for seed in range(5)
    ]
    for result in found:
        assert re.fullmatch(PATTERN, result.text)
        assert result.finish_reason == "stop"
    if settings.get("temperature"):
        assert len({result.text for result in found}) > 1


def test_texts_of_a_batch_and_a_stream_are_those_alone(model: LanguageModel) -> None:
    settings = {"regex": PATTERN, "max_new_tokens": 40, "temperature": 1.2, "seed": 5}
    prompts = ["The ", "rain", "a"]
    alone = [model.generate(prompt, **settings) for prompt in prompts]
    together = model.generate(prompts, **settings)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    stream = model.stream(prompts[0], **settings)
    assert "".join(stream) == alone[0].text
    assert stream.result.finish_reason == "stop"


def test_logprobs_stay_the_models_own(model: LanguageModel) -> None:
    result = model.generate("The ", regex=PATTERN, max_new_tokens=40, logprobs=0)
    scored = model.score("The ", result.token_ids)
    np.testing.assert_allclose([one.logprob for one in result.logprobs], scored, atol=1e-5)


def test_a_text_may_be_cut_by_its_length(model: LanguageModel) -> None:
    result = model.generate("The ", regex="a+b", max_new_tokens=3)
    assert result.finish_reason in ("length", "stop")
    assert re.fullmatch("a+b?", result.text)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"regex": "("}, "regex cannot be followed: .*unclosed group"),
        ({"regex": 3}, "regex is 3; it must be a string"),
        ({"regex": "Ω+"}, "no token that such a text could begin with"),
        ({"json_schema": {"type": "object"}}, "no token that such a text could begin with"),
        ({"json_schema": "{"}, "json_schema is no JSON"),
        ({"json_schema": [1]}, "it must be an object"),
        ({"json_schema": {"type": "nonsense"}}, "json_schema cannot be followed"),
        ({"json_schema": {"$ref": "http://example.com/x"}}, "json_schema cannot be followed"),
        ({"json_schema": {}, "regex": "a"}, "two forms; give one"),
        ({"regex": "a", "num_beams": 2}, "regex does not go with a search of 2 beams"),
    ],
)
def test_impossible_forms_are_refused(model: LanguageModel, settings: dict, complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        model.generate("The ", max_new_tokens=5, **settings)


def test_a_schema_that_nests_too_deep_is_refused() -> None:
    schema: dict = {"type": "integer"}
    for _ in range(2000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidInputError, match=r"more than 100 deep|no JSON"):
        Form(json_schema=schema)
    with pytest.raises(InvalidInputError, match=r"more than 100 deep|no JSON"):
        Form(json_schema='{"items":' * 2000 + "{}" + "}" * 2000)


@pytest.mark.parametrize("text", ["The wind", "naïve é 😀\n\t", '{"a": 1}'])
def test_tokens_have_the_bytes_that_they_write(byte_level: Tokenizer, text: str) -> None:
    table = token_bytes(byte_level, byte_level.vocab_size)
    assert b"".join(table[token] for token in byte_level.encode(text)) == text.encode()
    assert table[byte_level.backend.token_to_id("<|end|>")] == b""


def test_tokens_of_sentencepiece_have_their_bytes() -> None:
    vocabulary = {"▁a": 0, "b": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    expected = [b" a", b"b", b"\xc3", b"\xa9", b" ", b""]
    assert token_bytes(Tokenizer(backend.to_str()), 6) == expected
