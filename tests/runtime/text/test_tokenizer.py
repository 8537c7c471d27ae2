"""Text to ids and back: round trips, unknown characters, and text that arrives token by token."""

import functools
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as Backend

from edgegpt.errors import DataError
from edgegpt.runtime.errors import BundleError, InvalidInputError
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.run import Run
from edgegpt.runtime.text.chat_template import ChatTemplate
from edgegpt.runtime.text.stops import Detokenizer
from edgegpt.runtime.text.tokenizer import Tokenizer
from edgegpt.training.char_tokenizer import build_char_tokenizer, encode_corpus

REPLACEMENT = "\ufffd"
CORPUS = ["hello world, the quick brown fox", "jumps over the lazy dog", "grüße 🙂 日本"] * 3

texts = st.text(max_size=40)
# Every length of UTF-8, joiners, modifiers and flags; never the replacement character itself.
many_bytes = st.text(
    st.sampled_from("ab é\u0301ß日本🙂👩\u200d🚀🇩🇪👍🏽\U0001d518\U0010ffff\n"), max_size=25
)


def char_tokenizer(text: str) -> Tokenizer:
    return Tokenizer(build_char_tokenizer(text).to_str())


@functools.cache
def byte_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer like GPT-2's, with a few merges."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return Tokenizer(backend.to_str())


def bpe_without_unknown() -> Backend:
    """Return a tokenizer that knows a, b and ab, and silently drops everything else."""
    backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.decoder = decoders.Fuse()
    return backend


@functools.cache
def piece_tokenizer() -> Tokenizer:
    """Return a tokenizer like Llama's: "▁" for spaces, one before each text, bytes for the rest."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", "a", "b", "c", "▁a", "▁b", "ab", "<think>"]
    merges = [("▁", "a"), ("▁", "b"), ("a", "b")]
    vocabulary = {name: number for number, name in enumerate(names)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return Tokenizer(backend.to_str())


def pieces_of(
    tokenizer: Tokenizer, ids: list[int], stop: list[str], before: Sequence[int] = ()
) -> tuple[list[str], bool]:
    """Feed ids one by one, as generation does; return the pieces, and whether it stopped."""
    stream = Detokenizer(tokenizer, stop, before)
    pieces = []
    for token in ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


def up_to_first_stop(text: str, stops: list[str]) -> str:
    """Return `text` up to the stop string that is complete first; of several, the longest."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)]
    return text


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


@given(many_bytes)
@settings(deadline=None)
def test_a_piece_never_ends_within_a_character(text):
    pieces, stopped = pieces_of(byte_tokenizer(), byte_tokenizer().encode(text), [])
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)
    assert not stopped


@given(st.lists(st.integers(0, 299), max_size=20))
@settings(deadline=None)
def test_any_ids_give_the_decoded_text_but_for_an_unfinished_end(ids):
    ids = [token % byte_tokenizer().vocab_size for token in ids]
    pieces, _ = pieces_of(byte_tokenizer(), ids, [])
    whole = byte_tokenizer().decode(ids)
    assert "".join(pieces).rstrip(REPLACEMENT) == whole.rstrip(REPLACEMENT)


def test_a_character_that_the_last_token_leaves_incomplete_is_not_part_of_the_text():
    ids = byte_tokenizer().encode("a👍")
    assert len(ids) > 2  # the emoji has several ids, so that it can be cut
    pieces, _ = pieces_of(byte_tokenizer(), ids[:-1], [])
    assert "".join(pieces) == "a"


def test_a_replacement_character_that_is_a_token_itself_is_part_of_the_text():
    tokenizer = char_tokenizer("ab" + REPLACEMENT)
    for text in ("a\ufffdb", "\ufffd\ufffdb", "ab\ufffd"):
        assert "".join(pieces_of(tokenizer, tokenizer.encode(text), [])[0]) == text


def test_text_comes_at_once_when_there_is_no_stop_string():
    tokenizer = char_tokenizer("abc")
    assert pieces_of(tokenizer, tokenizer.encode("abc"), [])[0] == ["a", "b", "c", ""]


@pytest.mark.parametrize(
    ("text", "stops", "pieces", "stopped"),
    [
        ("abcab", ["c"], ["a", "b", "", ""], True),
        ("abcab", ["bc"], ["a", "", "", ""], True),
        ("aaab", ["aab"], ["", "", "a", "", ""], True),
        ("abab", ["abc"], ["", "", "ab", "", "ab"], False),
        ("abca", ["bca", "c"], ["a", "", "b", ""], True),
        ("abca", ["ca", "abc"], ["", "", "", ""], True),
        ("cabc", ["b", "ab"], ["c", "", "", ""], True),
        ("aba", ["abab"], ["", "", "", "aba"], False),
        ("abc", ["abcabc", "x"], ["", "", "", "abc"], False),
    ],
)
def test_text_that_may_be_a_stop_string_is_held_back(text, stops, pieces, stopped):
    tokenizer = char_tokenizer("abc")
    assert pieces_of(tokenizer, tokenizer.encode(text), stops) == (pieces, stopped)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
@settings(deadline=None, max_examples=300)
def test_the_pieces_are_the_text_up_to_the_first_stop_string(text, stops):
    tokenizer = char_tokenizer("ab")
    pieces, stopped = pieces_of(tokenizer, tokenizer.encode(text), stops)
    assert "".join(pieces) == up_to_first_stop(text, stops)
    assert stopped == any(stop in text for stop in stops)


@given(st.data())
@settings(deadline=None)
def test_a_stop_string_across_tokens_ends_the_text(data):
    text = data.draw(st.text("helo wrd🙂é", min_size=1, max_size=30))
    begin = data.draw(st.integers(0, len(text) - 1))
    stop = text[begin : data.draw(st.integers(begin + 1, len(text)))]
    pieces, stopped = pieces_of(byte_tokenizer(), byte_tokenizer().encode(text), [stop])
    assert "".join(pieces) == text.split(stop)[0]
    assert stopped


@given(st.lists(st.integers(0, 299), max_size=12), st.data())
@settings(deadline=None)
def test_no_ids_let_a_stop_string_through(ids, data):
    ids = [token % byte_tokenizer().vocab_size for token in ids]
    whole = byte_tokenizer().decode(ids).rstrip(REPLACEMENT) or "x"
    begin = data.draw(st.integers(0, len(whole) - 1))
    stop = whole[begin : data.draw(st.integers(begin + 1, len(whole)))]
    assert stop not in "".join(pieces_of(byte_tokenizer(), ids, [stop])[0])


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


def test_a_token_that_runs_past_the_stop_string_is_cut_there():
    tokenizer = Tokenizer(bpe_without_unknown().to_str())
    assert pieces_of(tokenizer, [0, 2, 1], ["a", "b"]) == (["", ""], True)
    assert pieces_of(tokenizer, [1, 2, 1], ["ba"])[0] == ["", "", ""]
    assert pieces_of(tokenizer, [2, 2], ["bab", "x"])[0] == ["a", "", ""]


def words(text: str) -> list[int]:
    """Return the ids of a text as it continues another: without a space that it does not have."""
    return [piece_tokenizer().backend.token_to_id(piece) for piece in text.split("|")]


def continued(prompt: list[int], ids: list[int]) -> str:
    return "".join(pieces_of(piece_tokenizer(), ids, [], prompt)[0])


def test_the_space_before_the_first_new_word_is_shown():
    prompt = piece_tokenizer().encode("a b")
    assert continued(prompt, words("▁b|c")) == " bc"
    assert continued(prompt, words("b|▁a")) == "b a"


def test_a_generated_text_continues_its_own_prompt():
    prompts = [piece_tokenizer().encode("a b"), words("<s>")]
    texts = [Text(ids, seed=0, series=number) for number, ids in enumerate(prompts)]
    rules: Any = SimpleNamespace(stop=())
    engine: Any = None
    run = Run(engine, piece_tokenizer(), texts, rules, pace=engine)
    pieces = [detokenizer.push(words("▁b")[0]) for detokenizer in run.detokenizers]
    assert pieces == [" b", "b"]


def test_a_text_that_begins_does_not_begin_with_a_space():
    assert continued([], words("▁b|▁a")) == "b a"
    assert continued(words("<s>"), words("▁b|▁a")) == "b a"
    assert continued(piece_tokenizer().encode("a</s>"), words("▁b|▁a")) == "b a"


def test_special_tokens_are_no_part_of_the_text_but_added_ones_are():
    assert continued(words("a"), words("<s>|▁b|</s>|▁a|<think>|<unk>|c")) == " b a<think>c"


@given(many_bytes, many_bytes)
@settings(deadline=None)
def test_a_prompt_and_its_continuation_are_the_whole_text(prompt, text):
    ids = piece_tokenizer().encode(prompt + text)
    for cut in range(1, len(ids)):
        given, pieces = ids[:cut], pieces_of(piece_tokenizer(), ids[cut:], [], ids[:cut])[0]
        assert (
            piece_tokenizer().decode(given).rstrip(REPLACEMENT) + "".join(pieces) == prompt + text
        )


def test_a_character_that_the_prompt_leaves_incomplete_is_shown_when_it_is_complete():
    ids = piece_tokenizer().encode("a🙂b")
    assert len(ids) == 6
    assert continued(ids[:3], ids[3:]) == "🙂b"


def test_a_replacement_character_of_the_prompt_is_not_shown_again():
    tokenizer = char_tokenizer("ab" + REPLACEMENT)
    before = tokenizer.encode("a\ufffd")
    assert "".join(pieces_of(tokenizer, tokenizer.encode("\ufffdb"), [], before)[0]) == "\ufffdb"


def test_a_stop_string_is_not_looked_for_in_the_prompt():
    assert pieces_of(piece_tokenizer(), words("b|c"), ["ab"], words("▁a")) == (
        ["b", "c", ""],
        False,
    )


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
