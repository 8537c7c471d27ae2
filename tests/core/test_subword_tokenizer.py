"""The learnt tokenizer: what it makes one token, and that texts survive it."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgegpt.errors import DataError, InvalidInputError
from edgegpt.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer
from edgegpt.training import subword_tokenizer
from edgegpt.training.subword_tokenizer import (
    END,
    PAD,
    START,
    build_subword_tokenizer,
    encode_texts,
)

FEW_WORDS = ["twenty one", "one hundred and twenty", "21", "120", "£1.20", "21st", "▁"] * 2
ALPHABET = "".join(sorted(set("".join(FEW_WORDS))))
# Texts that say many things: all words of three letters of an alphabet of ten, with others around.
MANY_WORDS = [
    " ".join(f"{a}{b}{c}" for c in "aeionrstlu") + ", größe — 3½"
    for a in "aeionrstlu"
    for b in "aeionrstlu"
] * 2


@pytest.fixture(scope="module")
def few() -> Tokenizer:
    """A tokenizer of few words, whose alphabet is characters."""
    return build_subword_tokenizer(FEW_WORDS, 8000)


@pytest.fixture(scope="module")
def many() -> Tokenizer:
    """A tokenizer of many words, whose alphabet is bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword_tokenizer, "SMALLEST_WITH_BYTES", 400)
        return build_subword_tokenizer(MANY_WORDS, 400)


def tokens_of(tokenizer: Tokenizer, text: str) -> list[str]:
    ids = encode_texts(tokenizer, [text])[0].tolist()
    return [tokenizer.decode([number], skip_special_tokens=False) for number in ids]


def test_the_first_ids_are_for_padding_start_and_end(few: Tokenizer, many: Tokenizer):
    for tokenizer in (few, many):
        ids = [tokenizer.token_to_id(name) for name in ("<pad>", "<s>", "</s>")]
        assert ids == [PAD, START, END] == [0, 1, 2]
        runtime = RuntimeTokenizer(tokenizer.to_str())
        assert runtime.special_ids == {PAD, START, END}
        assert sorted(tokenizer.get_vocab().values()) == list(range(runtime.vocab_size))


def test_words_are_tokens_with_the_space_before_them_and_digits_stay_alone(few: Tokenizer):
    assert tokens_of(few, "one hundred and twenty") == ["one", " hundred", " and", " twenty"]
    assert tokens_of(few, "£1.20 21st") == ["£", "1", ".", "2", "0", " ", "2", "1", "st"]


def test_digits_stay_alone_however_often_they_meet():
    for size in (8000, 20):
        tokenizer = build_subword_tokenizer(["1999 1999"] * 50, size)
        assert tokens_of(tokenizer, "1999") == ["1", "9", "9", "9"]


def test_the_vocabulary_shrinks_to_what_the_texts_allow(few: Tokenizer, many: Tokenizer):
    assert few.get_vocab_size() < 100
    assert many.get_vocab_size() == 400
    assert build_subword_tokenizer(MANY_WORDS, 60).get_vocab_size() == 60


def test_what_occurs_once_is_no_token():
    tokenizer = build_subword_tokenizer(["once", "twice", "twice"], 8000)
    assert tokens_of(tokenizer, "once") == ["o", "n", "ce"]
    assert tokens_of(tokenizer, "twice") == ["twice"]


def survives(text: str, tokenizer: Tokenizer) -> bool:
    ids = encode_texts(tokenizer, [text])[0].tolist()
    runtime = RuntimeTokenizer(tokenizer.to_str())
    return runtime.encode(text) == ids and runtime.decode(ids) == text


@given(text=st.text(ALPHABET))
def test_any_text_of_the_known_characters_survives(few: Tokenizer, text: str):
    assert survives(text, few)
    assert "".join(tokens_of(few, text)) == text


@given(text=st.text())
def test_any_text_at_all_survives_where_texts_say_many_things(many: Tokenizer, text: str):
    assert survives(text, many)


@pytest.mark.parametrize("character", ["z", "é", "🙂", "\n", "½"])
def test_a_character_that_no_pair_has_is_named(few: Tokenizer, character: str):
    where = rf"the character .* \(U\+{ord(character):04X}\) in 'one.*' is not in the vocabulary"
    with pytest.raises(DataError, match=where):
        encode_texts(few, ["twenty", f"one {character} two", "zzz"])
    with pytest.raises(InvalidInputError, match=rf"\(U\+{ord(character):04X}\) at position 4"):
        RuntimeTokenizer(few.to_str()).encode(f"one {character} t")


def test_a_special_token_s_name_in_a_text_is_no_special_token(many: Tokenizer):
    text = "a<s>b</s>c<pad>"
    ids = encode_texts(many, [text])[0].tolist()
    assert not {PAD, START, END} & set(ids)
    assert many.decode(ids) == text


def test_a_small_vocabulary_has_characters_even_if_it_is_full():
    tokenizer = build_subword_tokenizer(MANY_WORDS, 60)
    assert set(tokenizer.get_vocab()) >= set("".join(MANY_WORDS))
    with pytest.raises(DataError, match="not in the vocabulary"):
        encode_texts(tokenizer, ["é"])


def test_more_characters_than_ids_are_refused_with_the_least_that_works():
    with pytest.raises(InvalidInputError, match=r"has 16 ids.*14 different.*needs at least 17"):
        build_subword_tokenizer(["abcdefghijklmn"] * 2, 16)
    assert build_subword_tokenizer(["abcdefghijklmn"] * 2, 17).get_vocab_size() == 17


def test_texts_become_rows_of_ids_in_their_order(few: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    texts = ["one", "", "twenty one", "and", "21st"]
    alone = [few.encode(text).ids for text in texts]
    monkeypatch.setattr(subword_tokenizer, "AT_ONCE", 2)
    rows = encode_texts(few, texts)
    assert [rows[index].tolist() for index in range(len(rows))] == alone
    assert rows.lengths.tolist() == [len(ids) for ids in alone]
    assert (rows.ids.dtype, rows.ends.dtype) == (np.int32, np.int64)
    assert len(encode_texts(few, [])) == 0


def test_every_process_learns_the_same_tokenizer(few: Tokenizer):
    code = (
        "from edgegpt.training.subword_tokenizer import build_subword_tokenizer\n"
        f"print(build_subword_tokenizer({FEW_WORDS!r}, 8000).to_str())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == few.to_str()
    assert build_subword_tokenizer(MANY_WORDS, 300).to_str() == (
        build_subword_tokenizer(MANY_WORDS, 300).to_str()
    )
