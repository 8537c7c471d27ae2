"""The text side of a GGUF file's metadata."""

import json
from typing import Any

import pytest
import sentencepiece
from small_tokenizers import HARD_TEXTS, sentence_piece
from tokenizers import Tokenizer

from edgegpt.errors import CheckpointError
from edgegpt.importers.text import text_of_gguf
from edgegpt.importers.text.sentence_piece import read_sentence_piece
from edgegpt.importers.text.splits import SPLITS

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
TEXT = "I'll isBox's  12345 x=y;\n\n\t\u042f日本 .. 'RE e\u0301!a"
# The cuts of TEXT, at "|", by the tokenizer.json of Llama 3, Qwen3, Mistral NeMo, DeepSeek V3,
# GPT-2 and GPT-4o, and by the parts that those of SmolLM2 and Falcon are made of.
CUTS = {
    "llama-bpe": "I|'ll| isBox|'s| | |123|45| x|=y|;\n\n|\t\u042f日本| ..| '|RE| e|\u0301!|a",
    "qwen2": "I|'ll| isBox|'s| | |1|2|3|4|5| x|=y|;\n\n|\t\u042f日本| ..| '|RE| e|\u0301!|a",
    "tekken": "I|'ll| is|Box|'s| | |1|2|3|4|5| x|=y|;\n\n|\t\u042f日本| ..| '|RE| e\u0301|!a",
    "deepseek-v3": "I|'ll| isBox|'s|  |123|45| x|=y|;\n\n|\t\u042f|日本| ..| '|RE| e\u0301|!a",
    "gpt-2": "I|'ll| isBox|'s| | 12345| x|=|y|;|\n\n|\t|\u042f日本| ..| '|RE| e|\u0301!|a",
    "gpt-4o": "I'll| is|Box's| | |123|45| x|=y|;\n\n|\t\u042f日本| ..| '|RE| e\u0301|!a",
    "smollm": "I|'ll| isBox|'s|  |1|2|3|4|5| x|=|y|;|\n\n|\t|\u042f日本| ..| '|RE| e|\u0301!|a",
    "falcon": "I|'|ll| isBox|'|s| | |123|45| x|=|y|;|\n\n|\t|\u042f日本| |..| |'|RE| e|\u0301|!|a",
}


def byte_level(**more: Any) -> dict[str, Any]:
    """Return the metadata of a small byte-level tokenizer."""
    tokens = ["<|begin|>", "a", "b", "ab", "Ġ", "Ġab", "<|im_end|>", "<think>", "[PAD8]"]
    kinds = [CONTROL, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, CONTROL, USER, UNUSED]
    own = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": kinds,
        "merges": ["a b", "Ġ ab"],
        "bos_token_id": 0,
        "eos_token_id": 6,
    }
    given = {key: value for key, value in (own | more).items() if value is not ...}
    return {f"tokenizer.ggml.{key}": value for key, value in given.items()}


def tokens_of(fields: dict[str, Any], text: str, rows: int = 100) -> list[str]:
    tokenizer = Tokenizer.from_str(text_of_gguf(fields, rows).tokenizer_json or "")
    return tokenizer.encode(text, add_special_tokens=False).tokens


def test_a_byte_level_tokenizer_merges_and_finds_its_added_tokens():
    text = "ab ab<|im_end|>b<think>[PAD8]"
    tokens = ["ab", "Ġab", "<|im_end|>", "b", "<think>"]
    assert tokens_of(byte_level(), text)[:5] == tokens


def test_only_control_tokens_are_special():
    tokenizer = Tokenizer.from_str(text_of_gguf(byte_level(), 100).tokenizer_json or "")
    assert tokenizer.decode([0, 3, 7, 6]) == "ab<think>"


@pytest.mark.parametrize("pre", SPLITS)
def test_every_way_of_cutting_can_be_read_and_loses_no_text(pre):
    fields = byte_level(pre=pre)
    tokenizer = Tokenizer.from_str(text_of_gguf(fields, 100).tokenizer_json or "")
    for text in HARD_TEXTS:
        spans = [span for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        assert {place for span in spans for place in range(*span)} == set(range(len(text)))


@pytest.mark.parametrize("pre", CUTS)
def test_a_text_is_cut_as_the_models_own_tokenizer_cuts_it(pre):
    pre_tokenizer = SPLITS[pre].pre_tokenizer()
    cuts = [TEXT[slice(*span)] for _, span in pre_tokenizer.pre_tokenize_str(TEXT)]
    assert cuts == CUTS[pre].split("|")


def test_a_word_that_is_a_token_is_taken_whole_where_the_tokenizer_does_so():
    fields = {
        "tokens": ["<|begin|>", "a", "b", "ba"],
        "token_type": [CONTROL, 1, 1, 1],
        "merges": [],
    }
    assert tokens_of(byte_level(pre="llama-bpe", eos_token_id=..., **fields), "ba") == ["ba"]
    assert tokens_of(byte_level(pre="dbrx", eos_token_id=..., **fields), "ba") == ["b", "a"]


@pytest.mark.parametrize(
    ("more", "start"),
    [
        ({"pre": "gpt-2"}, ()),
        ({"pre": "llama-bpe"}, (0,)),
        ({"pre": "tekken"}, (0,)),
        ({"pre": "gpt-2", "add_bos_token": True}, (0,)),
        ({"pre": "llama-bpe", "add_bos_token": False}, ()),
        ({"pre": "llama-bpe", "bos_token_id": ...}, ()),
        ({"pre": "llama-bpe", "bos_token_id": 2**32 - 1}, ()),
    ],
)
def test_a_prompt_begins_as_the_file_or_its_kind_says(more, start):
    assert text_of_gguf(byte_level(**more), 100).usage.start_ids == start


def test_the_file_names_the_ends_the_padding_and_the_special_tokens():
    found = text_of_gguf(
        byte_level(eos_token_id=1, eot_token_id=2, eom_token_id=3, padding_token_id=4), 100
    )
    assert (found.usage.end_ids, found.usage.pad_id) == ((1, 2, 3), 4)
    names = {"bos_token": "<|begin|>", "eos_token": "a", "pad_token": "Ġ"}
    assert found.usage.special_tokens == names
    assert found.notes == ()


def test_without_an_end_of_turn_it_is_found_by_its_name_and_said():
    found = text_of_gguf(byte_level(eos_token_id=1), 100)
    assert found.usage.end_ids == (1, 6)
    assert found.notes == ("a text ends at '<|im_end|>', too, by the name, as in llama.cpp",)


def test_an_ordinary_token_with_the_name_of_an_end_is_none():
    kinds = [CONTROL, *[NORMAL] * 6, USER, UNUSED]
    found = text_of_gguf(byte_level(eos_token_id=1, token_type=kinds), 100)
    assert (found.usage.end_ids, found.notes) == ((1,), ())


def test_ids_beyond_the_embedding_are_dropped_and_named():
    found = text_of_gguf(byte_level(token_type=[CONTROL] * 9, padding_token_id=8), 7)
    assert found.usage.pad_id is None
    assert found.notes == (
        "2 added tokens beyond the embedding's 7 rows were dropped: '<think>', '[PAD8]'",
        "padding ids beyond the embedding's 7 rows were dropped: 8",
    )


def test_chat_templates_are_carried_and_others_named():
    templates = {"tokenizer.chat_template": "{{ x }}", "tokenizer.chat_template.rag": "{{ y }}"}
    found = text_of_gguf(byte_level() | templates, 100)
    assert found.chat_template == "{{ x }}"
    assert found.notes == ("chat templates left out: 'rag'",)


@pytest.mark.parametrize("fields", [{}, {"tokenizer.ggml.model": "none"}])
def test_a_file_without_a_tokenizer_gives_a_model_of_ids(fields):
    found = text_of_gguf(fields, 10)
    assert found.tokenizer_json is None
    assert found.notes == ("the GGUF file has no tokenizer: the model works with token ids only",)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        *(({"model": kind}, f"of the kind '{kind}'") for kind in ("bert", "rwkv", "plamo2", "x")),
        ({"model": 3}, "tokenizer.ggml.model is 3"),
        ({"pre": "new-way"}, "cuts texts in the way 'new-way'"),
        ({"pre": ...}, "cuts texts in the way 'default'"),
        ({"tokens": ...}, "tokens is not a list of str"),
        ({"tokens": ["a", 5]}, "tokens is not a list of str"),
        ({"token_type": [1, 1]}, "9 tokens, but 2 kinds"),
        ({"token_type": "x"}, "token_type is not a list of int"),
        ({"tokens": ["a"] * 9}, "the same token twice"),
        ({"tokens": [], "token_type": []}, "a tokenizer without tokens"),
        ({"merges": ...}, "merges is not a list of str"),
        ({"merges": ["ab"]}, "the merge 'ab', which is no pair"),
        ({"merges": ["a Z"]}, "merges do not fit"),
        ({"eos_token_id": "6"}, "eos_token_id is '6'"),
        ({"add_bos_token": 1}, "add_bos_token is 1"),
        ({"model": "llama"}, "scores is not a list of float"),
        ({"model": "llama", "scores": [float("nan")] * 9}, "piece 0 has the score nan"),
        ({"model": "llama", "scores": [0.0]}, "9 tokens, but 1 scores"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused_by_name(more, message):
    with pytest.raises(CheckpointError, match=message):
        text_of_gguf(byte_level(**more), 100)


def test_an_ordinary_token_beyond_the_embedding_is_refused():
    with pytest.raises(
        CheckpointError, match=r"a token beyond the embedding's 5 rows.*'Ġab'|u0120ab"
    ):
        text_of_gguf(byte_level(token_type=[1] * 6 + [3] * 3), 5)


def test_a_chat_template_that_is_no_text_is_refused():
    with pytest.raises(CheckpointError, match=r"tokenizer\.chat_template in the GGUF file"):
        text_of_gguf({"tokenizer.chat_template": 5}, 10)


def pieces_as_fields(path, model: str, **more: Any) -> dict[str, Any]:
    """Return the metadata that llama.cpp's converter makes of a SentencePiece model."""
    source = read_sentence_piece(path, every_part=True)
    assert source is not None
    own = {
        "model": model,
        "tokens": [piece.text for piece in source.model.pieces],
        "scores": [piece.score for piece in source.model.pieces],
        "token_type": [int(piece.kind) for piece in source.model.pieces],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (own | more).items()}


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_with_scores_give_the_ids_of_sentencepiece(tmp_path, prefix):
    sentence_piece(tmp_path / "m", "bpe", add_dummy_prefix=prefix)
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m"))
    fields = pieces_as_fields(tmp_path / "m", "llama", add_space_prefix=prefix)
    found = text_of_gguf(fields, 1000)
    tokenizer = Tokenizer.from_str(found.tokenizer_json or "")
    for text in HARD_TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False).ids == library.encode(text)
    assert (found.usage.start_ids, found.usage.end_ids) == ((1,), (2,))


def test_likely_pieces_give_the_ids_of_sentencepiece(tmp_path):
    settings = {"remove_extra_whitespaces": True, "byte_fallback": False}
    sentence_piece(tmp_path / "m", "unigram", "nmt_nfkc", **settings)
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m"))
    source = read_sentence_piece(tmp_path / "m", every_part=True)
    assert source is not None
    charsmap = [byte - 256 * (byte > 127) for byte in source.model.charsmap]  # as int8
    fields = pieces_as_fields(
        tmp_path / "m",
        "t5",
        precompiled_charsmap=charsmap,
        remove_extra_whitespaces=True,
        add_space_prefix=True,
    )
    found = text_of_gguf(fields, 1000)
    tokenizer = Tokenizer.from_str(found.tokenizer_json or "")
    for text in HARD_TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False).ids == library.encode(text)
    assert found.usage.start_ids == ()


def test_an_empty_token_is_none():
    fields = byte_level(
        tokens=["<|begin|>", "a", "b", "ab", "Ġ", "Ġab", "", "", "x"], eos_token_id=1
    )
    vocabulary = json.loads(text_of_gguf(fields, 100).tokenizer_json or "")["model"]["vocab"]
    assert vocabulary["[EMPTY_6]"] == 6
