"""Text to ids and back: round trips, unknown characters, and special tokens."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import bpe_without_unknown, byte_tokenizer, char_tokenizer, many_bytes
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from edgegpt.errors import DataError
from edgegpt.runtime.errors import BundleError, InvalidInputError
from edgegpt.runtime.text.chat_template import ChatTemplate
from edgegpt.runtime.text.tokenizer import Tokenizer
from edgegpt.training.char_tokenizer import build_char_tokenizer, encode_corpus

texts = st.text(max_size=40)


@given(texts)
@settings(deadline=None)
def test_a_char_tokenizer_gives_every_text_back(text):
    tokenizer = char_tokenizer(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == len(set(text))


@given(st.text(min_size=1, max_size=60), st.randoms())
@settings(deadline=None)
def test_encoding_a_corpus_by_table_gives_the_tokenizers_ids(vocabulary, random):
    backend = build_char_tokenizer(vocabulary)
    text = "".join(random.choices(vocabulary, k=50))
    assert encode_corpus(backend, text).tolist() == backend.encode(text).ids
    assert encode_corpus(backend, text).tolist() == Tokenizer(backend.to_str()).encode(text)


def test_char_ids_follow_the_code_points():
    assert char_tokenizer("zebra").encode("abrez") == [0, 1, 3, 2, 4]


@given(texts, texts, st.characters(codec="utf-8"))
@settings(deadline=None)
def test_a_char_tokenizer_names_the_first_unknown_character_and_its_place(before, after, unknown):
    known = (before + after).replace(unknown, "")
    before = before.replace(unknown, "")
    named = f"U+{ord(unknown):04X}) at position {len(before)} of the text"
    with pytest.raises(InvalidInputError) as error:
        char_tokenizer(known or "\x00\x01".replace(unknown, "")).encode(before + unknown + after)
    assert named in str(error.value)


def test_half_a_surrogate_pair_is_an_unknown_character():
    with pytest.raises(InvalidInputError, match=r"U\+D800\) at position 1 "):
        char_tokenizer("ab").encode("a\ud800")


def test_a_corpus_with_an_unknown_character_names_it_and_its_place():
    with pytest.raises(DataError, match="'X' at 2"):
        encode_corpus(build_char_tokenizer("ab"), "abXab")


@pytest.mark.parametrize("text", ["X", "abX", "aXb", "Xab", "aXXab", "abab X", "a b", "abäab"])
def test_a_character_that_bpe_would_drop_is_named_with_its_place(text):
    tokenizer = Tokenizer(bpe_without_unknown().to_str())
    place = next(i for i, character in enumerate(text) if character not in "ab")
    with pytest.raises(InvalidInputError) as error:
        tokenizer.encode(text)
    assert f"{text[place]!r} (U+{ord(text[place]):04X}) at position {place} " in str(error.value)


def test_a_whole_word_that_bpe_would_drop_is_named_with_its_place():
    backend = bpe_without_unknown()
    backend.pre_tokenizer = pre_tokenizers.Split("XY", "isolated")
    assert backend.encode("abXYab").tokens == ["ab", "ab"]
    with pytest.raises(InvalidInputError, match=r"'X' \(U\+0058\) at position 2 "):
        Tokenizer(backend.to_str()).encode("abXYab")


@given(st.text("ab", max_size=20))
@settings(deadline=None)
def test_a_text_that_bpe_knows_is_not_refused(text):
    tokenizer = Tokenizer(bpe_without_unknown().to_str())
    assert "".join(["a", "b", "ab"][token] for token in tokenizer.encode(text)) == text


def test_a_character_that_would_become_the_unknown_token_is_refused():
    backend = Backend(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    with pytest.raises(InvalidInputError, match=r"'X' .* at position 2 "):
        Tokenizer(backend.to_str()).encode("aaX")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("e4 zz9 e5", "the word 'zz9' at position 3 "),
        ("e4 Z", r"the character 'Z' .* at position 3 "),
    ],
)
def test_a_word_that_would_become_the_unknown_token_is_named_as_a_whole(text, wrong):
    with pytest.raises(InvalidInputError, match=wrong):
        words().encode(text)


def test_blanks_that_only_part_words_and_a_written_unknown_token_are_no_unknown_characters():
    assert words().encode("e4  e5") == [0, 1]
    assert words().encode("e4 <unk>") == [0, 2]
    backend = bpe_without_unknown()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert Tokenizer(backend.to_str()).encode("ab  b") == [2, 1]


@pytest.mark.parametrize("wrong", [-1, 2**32])
def test_a_number_that_can_be_no_id_is_named(wrong):
    with pytest.raises(InvalidInputError, match=f"^{wrong} is no token id"):
        words().decode([0, wrong])


def words() -> Tokenizer:
    backend = Backend(models.WordLevel({"e4": 0, "e5": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend.to_str())


def test_no_special_tokens_are_added_to_a_text():
    backend = bpe_without_unknown()
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 3)])
    tokenizer = Tokenizer(backend.to_str())
    assert tokenizer.encode("abb") == [2, 1]
    assert tokenizer.vocab_size == 4
    assert tokenizer.decode([3, 2]) == "<s>ab"


@pytest.mark.parametrize("text", ["", "{}", "[1", json.dumps({"model": {"type": "Nonsense"}})])
def test_an_unreadable_tokenizer_is_a_bundle_error(text):
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(text)


@given(many_bytes)
@settings(deadline=None)
def test_byte_level_bpe_gives_every_text_back(text):
    assert byte_tokenizer().decode(byte_tokenizer().encode(text)) == text


def test_a_special_token_in_a_text_is_one_id_and_so_is_a_rendered_one():
    backend = Backend.from_str(byte_tokenizer().backend.to_str())
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.add_tokens(["<tool>"])
    tokenizer = Tokenizer(backend.to_str())
    special = {name: backend.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>", "<tool>")}
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    )
    content = "grüße <tool> <|im_end|>"  # from a user, and parsed all the same
    messages = [{"role": "user", "content": content}]
    prompt = ChatTemplate(template, "chat_template.jinja", {}).render(messages)
    ids = tokenizer.encode(prompt)
    assert ids == tokenizer.encode(str(prompt))
    names = ["<|im_start|>", "<tool>", "<|im_end|>", "<|im_end|>"]
    assert [token for token in ids if token in special.values()] == [special[n] for n in names]
    assert tokenizer.decode(ids) == prompt


def test_a_character_that_the_tokenizer_leaves_out_on_purpose_is_not_unknown():
    backend = bpe_without_unknown()
    backend.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Replace("\x01", "")]
    )
    assert Tokenizer(backend.to_str()).encode(" ab\x01b ") == [2, 1]


def test_a_panic_of_the_library_is_an_error_like_others():
    document = json.loads(bpe_without_unknown().to_str())
    table = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read: Precompiled"):
        Tokenizer(json.dumps(document | {"normalizer": table}))
    tokenizer = Tokenizer(
        json.dumps(document | {"pre_tokenizer": {"type": "FixedLength", "length": 0}})
    )
    with pytest.raises(InvalidInputError):
        tokenizer.encode("ab")
