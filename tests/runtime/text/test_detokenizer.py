"""Text that arrives token by token: whole characters, stop strings, and what follows a prompt."""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import bpe_without_unknown, byte_tokenizer, char_tokenizer, many_bytes
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.run import Run
from edgegpt.runtime.text.stops import Detokenizer
from edgegpt.runtime.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


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


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, piece_tokenizer])
def test_a_replacement_character_of_bytes_is_part_of_the_text(tokenizer):
    for text in ("a\ufffd", "\ufffd\ufffd", "a\ufffdb\ufffd"):
        ids = tokenizer().encode(text)
        assert len(ids) >= len(text) + 2
        assert "".join(pieces_of(tokenizer(), ids, [])[0]) == text
        assert "".join(pieces_of(tokenizer(), ids[:-1], [])[0]) == text[:-1]


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
    rules: Any = SimpleNamespace(stop=(), shown=())
    engine: Any = None
    run = Run(engine, piece_tokenizer(), texts, rules, pace=engine)
    pieces = [writing.detokenizer.push(words("▁b")[0]) for writing in run.writings]
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
