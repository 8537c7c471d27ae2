"""The presets by name, and the character tokenizer that training builds from its text."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgegpt.errors import DataError, InvalidInputError
from edgegpt.model import GPTConfig, Seq2SeqConfig
from edgegpt.presets import DEFAULT_PRESETS, load_preset, preset_names
from edgegpt.training import char_tokenizer
from edgegpt.training.char_tokenizer import build_char_tokenizer, encode_corpus
from edgegpt.training.config import TrainConfig

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def test_the_default_preset_is_among_the_names():
    assert DEFAULT_PRESETS["text"] == "shakespeare-char"
    assert DEFAULT_PRESETS["text"] in preset_names()
    assert preset_names() == sorted(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_model_and_a_training_run(name: str):
    preset = load_preset(name)
    model, train = preset.model, preset.train
    if preset.task == "seq2seq":
        Seq2SeqConfig.from_dict({"encoder": model, "decoder": model})
    else:
        GPTConfig.from_dict(model)
    TrainConfig.from_dict(train)


@pytest.mark.parametrize("name", ["gpt-5", "", "Shakespeare-Char", "../shakespeare-char", "*"])
def test_an_unknown_preset_is_refused_with_the_known_ones(name: str):
    with pytest.raises(InvalidInputError) as refusal:
        load_preset(name)
    assert repr(name) in str(refusal.value)
    assert all(known in str(refusal.value) for known in preset_names())


def test_ids_number_the_distinct_characters_by_code_point():
    tokenizer = build_char_tokenizer("hello\n ü😀")
    assert tokenizer.get_vocab() == {c: i for i, c in enumerate("\n ehloü😀")}


@given(text=TEXTS)
@example(text="one\n\n\ntwo\r\n\r\n  \t\x00\u2028e\u0301")
def test_decoding_gives_back_every_character(text: str):
    tokenizer = Tokenizer.from_str(build_char_tokenizer(text).to_str())
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(text=TEXTS)
def test_the_fast_encoding_is_the_tokenizers_own(text: str):
    tokenizer = build_char_tokenizer(text + "some more")
    with patch.object(char_tokenizer, "AT_ONCE", 3):  # several pieces
        ids = encode_corpus(tokenizer, text)
    assert ids.dtype == np.uint8
    assert ids.tolist() == tokenizer.encode(text).ids


@pytest.mark.parametrize("stranger", ["\x00", "b", "é", "😀"])
def test_a_character_out_of_the_vocabulary_is_an_error_with_its_place(stranger: str):
    tokenizer = build_char_tokenizer("acd")
    with (
        patch.object(char_tokenizer, "AT_ONCE", 2),
        pytest.raises(DataError, match=r"at 2 is not in the vocabulary"),
    ):
        encode_corpus(tokenizer, f"ac{stranger}d")
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode(f"ac{stranger}d")
