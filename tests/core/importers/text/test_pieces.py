"""Tokenizers built from SentencePiece models give the ids of the sentencepiece library."""

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import HARD_TEXTS, sentence_piece
from tokenizers import AddedToken, Tokenizer

from edgegpt.errors import CheckpointError
from edgegpt.importers.text.pieces import Kind, Piece, PieceModel, piece_tokenizer
from edgegpt.importers.text.sentence_piece import read_sentence_piece

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("bpe", "identity", {}),
    "gemma": ("bpe", "identity", {"add_dummy_prefix": False}),
    "open_llama": ("bpe", "nmt_nfkc", {"remove_extra_whitespaces": True}),
    "old": ("bpe", "nfkc", {"remove_extra_whitespaces": True, "byte_fallback": False}),
    "unigram": ("unigram", "identity", {}),
    "t5": ("unigram", "nmt_nfkc", {"remove_extra_whitespaces": True, "byte_fallback": False}),
}
pieces = st.lists(st.sampled_from([*"ab  .▁é\u0301ß日🙂\u200d\n=", "<0x4A>", "<sep>", "«q»"])).map(
    "".join
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the model file of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for name, (model_type, rule, more) in KINDS.items():
        sentence_piece(folder / name, model_type, rule, **more)
    return {name: folder / name for name in KINDS}


@pytest.fixture(scope="module")
def llama(models) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    """Return the tokenizer of Llama's kind of model, and the library's own."""
    library = sentencepiece.SentencePieceProcessor(model_file=str(models["llama"]))
    return built(models["llama"]), library


def built(path: Path, *, every_part: bool = True, added: dict[int, AddedToken] | None = None):
    source = read_sentence_piece(path, every_part=every_part)
    assert source is not None
    return piece_tokenizer(source.model, added or {})


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_hard_texts_get_the_ids_of_sentencepiece(models, kind):
    library = sentencepiece.SentencePieceProcessor(model_file=str(models[kind]))
    tokenizer = built(models[kind])
    wrong = [text for text in HARD_TEXTS if ids_of(tokenizer, text) != library.encode(text)]
    assert not wrong


@pytest.mark.parametrize("kind", ["llama", "gemma", "unigram"])
def test_ids_decode_to_the_text_of_sentencepiece(models, kind):
    library = sentencepiece.SentencePieceProcessor(model_file=str(models[kind]))
    tokenizer = built(models[kind])
    for text in HARD_TEXTS:
        ids = library.encode(text)
        assert tokenizer.decode(ids, skip_special_tokens=False) == library.decode(ids)


@settings(deadline=None)
@given(pieces.filter(lambda text: text not in ("<sep>", "«q»")))
def test_any_text_gets_the_ids_of_sentencepiece(llama, text):
    tokenizer, library = llama
    assert ids_of(tokenizer, text) == library.encode(text)


def test_runs_of_one_character_are_merged_as_in_sentencepiece(llama):
    tokenizer, library = llama
    for length in range(1, 60):
        for text in (" " * length, "a" * length, "=" * length, "x" + " " * length + "y"):
            assert ids_of(tokenizer, text) == library.encode(text)


def test_control_pieces_are_found_in_a_text(llama):
    tokenizer, _ = llama
    assert tokenizer.encode("a</s>b[INST]").tokens[1:5:2] == ["</s>", "[INST]"]
    assert tokenizer.decode(ids_of(tokenizer, "a</s>")) == "a"  # special


def test_a_text_after_a_control_piece_gets_a_space_only_if_every_part_does(llama, models):
    assert llama[0].encode("</s>is").tokens == ["</s>", "▁is"]
    assert built(models["llama"], every_part=False).encode("</s>is").tokens == ["</s>", "is"]


def test_the_first_part_gets_a_space_even_if_it_begins_with_one(llama, models):
    _, library = llama
    tokenizer = built(models["llama"], every_part=False)
    begins_with_own = [text for text in HARD_TEXTS if text.startswith(("<sep>", "«q»"))]
    for text in HARD_TEXTS:
        expected = library.encode(text)
        if text in begins_with_own:  # the one known difference
            expected = expected[1:]
        assert ids_of(tokenizer, text) == expected


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_added_tokens_get_their_ids_beyond_the_pieces(models, kind):
    size = sentencepiece.SentencePieceProcessor(model_file=str(models[kind])).get_piece_size()
    added = {size + i: AddedToken(f"<|{i}|>", special=True) for i in range(2)}
    tokenizer = built(models[kind], added=added)
    assert [tokenizer.token_to_id(f"<|{i}|>") for i in range(2)] == [size, size + 1]
    assert size + 1 in ids_of(tokenizer, "a<|1|>b")


def test_a_gap_before_an_added_token_of_a_unigram_model_is_refused(models):
    with pytest.raises(CheckpointError, match="'<x>' has the id 9000"):
        built(models["t5"], added={9000: AddedToken("<x>")})


@pytest.mark.parametrize("kind", ["word", "char"])
def test_other_kinds_of_models_are_refused_by_name(tmp_path, kind):
    sentence_piece(tmp_path / "m", kind, byte_fallback=False, use_all_vocab=kind == "char")
    with pytest.raises(CheckpointError, match=f"of the kind {kind}; bpe and unigram"):
        read_sentence_piece(tmp_path / "m", every_part=True)


def test_spaces_at_the_end_of_pieces_are_refused_by_name(tmp_path):
    sentence_piece(tmp_path / "m", "bpe", treat_whitespace_as_suffix=True)
    with pytest.raises(CheckpointError, match="treat_whitespace_as_suffix"):
        read_sentence_piece(tmp_path / "m", every_part=True)


def test_a_table_that_folds_case_is_refused(tmp_path):
    sentence_piece(tmp_path / "m", "bpe", "nmt_nfkc_cf")
    with pytest.raises(CheckpointError, match="otherwise than Unicode's NFKC"):
        built(tmp_path / "m")


def test_a_damaged_table_of_characters_is_refused():
    with pytest.raises(CheckpointError, match="precompiled_charsmap cannot be read"):
        piece_tokenizer(model_of([("<unk>", Kind.UNKNOWN), ("a", Kind.NORMAL)], b"\xff\xff"), {})


def model_of(pieces: list[tuple[str, Kind]], charsmap: bytes = b"") -> PieceModel:
    return PieceModel([Piece(t, -1.0, kind) for t, kind in pieces], "bpe", "every", False, charsmap)


def test_a_text_is_cut_into_normal_pieces_only():
    pieces = [("<unk>", Kind.UNKNOWN), ("a", Kind.NORMAL), ("b", Kind.NORMAL), ("ab", Kind.UNUSED)]
    tokenizer = piece_tokenizer(model_of([*pieces, ("▁", Kind.NORMAL)]), {})
    assert tokenizer.encode("ab").tokens == ["▁", "a", "b"]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([("<unk>", Kind.UNKNOWN), ("a", Kind.NORMAL), ("a", Kind.NORMAL)], "'a' is .* twice"),
        ([("<unk>", Kind.UNKNOWN), ("a" * 2000, Kind.NORMAL)], "piece 1 has 2,000 characters"),
        ([("<unk>", Kind.UNKNOWN), ("<0xXY>", Kind.BYTE)], "'<0xXY>', does not name a byte"),
        ([("a", Kind.NORMAL)], "no piece for unknown characters"),
    ],
)
def test_pieces_that_make_no_sense_are_refused(pieces, message):
    with pytest.raises(CheckpointError, match=message):
        piece_tokenizer(model_of(pieces), {})
